/** The server: the token that opens it, and whether it can be reached. */

import { fetchAbout, type About } from "./engines/api";
import { AskError } from "./engines/engine";
import { about, place, reachable, refused, token } from "./state";
import { deviceModel } from "./state";
import { readSetting, writeSetting } from "./storage/database";

const RETRY_MS = 15_000;
const TIMEOUT_MS = 8_000;

/** The token in a link such as `https://host:8443/#token=…`, or in a text that is one. */
export function tokenIn(link: string): string | null {
  const found = /#token=([^&\s]+)/.exec(link);
  if (found?.[1]) return decodeURIComponent(found[1]);
  return /^[\w.~-]{8,512}$/.test(link.trim()) ? link.trim() : null;
}

/** Takes the token out of the address and keeps it, or brings back the kept one. */
export async function takeToken(): Promise<void> {
  const given = tokenIn(location.hash);
  if (given) {
    history.replaceState(null, "", location.pathname + location.search);
    token.value = given;
    await writeSetting("token", given);
    place.value = "server";
  } else {
    token.value = (await readSetting<string>("token")) ?? null;
  }
}

export async function connectWith(link: string): Promise<boolean> {
  const given = tokenIn(link);
  if (!given) return false;
  token.value = given;
  await writeSetting("token", given);
  await refreshAbout();
  return true;
}

/** Asks the server about itself; what it said last stays when it cannot be reached. */
export async function refreshAbout(): Promise<void> {
  if (!about.value) about.value = (await readSetting<About>("about")) ?? null;
  if (!token.value) {
    reachable.value = false;
    return;
  }
  try {
    const fresh = await fetchAbout(token.value, AbortSignal.timeout(TIMEOUT_MS));
    about.value = fresh;
    reachable.value = true;
    refused.value = false;
    await writeSetting("about", fresh);
  } catch (error) {
    reachable.value = false;
    refused.value = error instanceof AskError && error.trouble === "token";
  }
}

/** Looks again when the page is shown, the network comes back, or while the server is away. */
export function watchConnection(): void {
  const look = (): void => {
    if (document.visibilityState === "visible") void refreshAbout();
  };
  document.addEventListener("visibilitychange", look);
  addEventListener("online", look);
  addEventListener("offline", () => (reachable.value = false));
  setInterval(() => {
    if (reachable.value === false && !refused.value && token.value) look();
  }, RETRY_MS);
}

/** Whether this device could answer now instead of the server. */
export const canUseDevice = (): boolean => place.value === "server" && deviceModel.value !== null;
