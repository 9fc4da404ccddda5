/** Which view is shown: the path of the address. `/models` and `/api` belong to the server. */

import { signal } from "@preact/signals";

export const ROUTES = ["ask", "compare", "history", "forecast", "device", "about"] as const;
export type Route = (typeof ROUTES)[number];

export const path = (route: Route): string => (route === "ask" ? "/" : `/${route}`);

function current(): Route {
  const name = location.pathname.slice(1);
  return ROUTES.find((route) => route === name) ?? "ask";
}

export const route = signal<Route>(current());

addEventListener("popstate", () => (route.value = current()));

/** Reading goes on from the view's heading, where what had the focus is gone. */
export function focusHeading(): void {
  document.querySelector<HTMLElement>("main h1")?.focus();
}

export function go(to: Route): void {
  if (to !== route.value) history.pushState(null, "", path(to));
  route.value = to;
}
