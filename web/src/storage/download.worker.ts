/// <reference lib="webworker" />
// Runs `download` where synchronous file access is allowed: in a worker.

import { DamagedError, download, type Source, type Target } from "./download";
import { FOLDER } from "./folder";

export interface Order {
  readonly url: string;
  readonly token: string | null;
  readonly bytes: number;
  readonly sha256: string;
}

export type Report =
  | { readonly kind: "progress"; readonly bytes: number }
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly reason: "damaged" | "space" | "token" | "network"; readonly detail: string };

const post = (report: Report): void => self.postMessage(report);

self.onmessage = async ({ data }: MessageEvent<Order>) => {
  try {
    const root = await navigator.storage.getDirectory();
    const folder = await root.getDirectoryHandle(FOLDER, { create: true });
    const file = await folder.getFileHandle(`${data.sha256}.part`, { create: true });
    const handle = await file.createSyncAccessHandle();
    try {
      await download(handle as unknown as Target, data, from(data), throttled());
    } finally {
      handle.close();
    }
    // Renaming within the folder is atomic: a file without `.part` is whole.
    await (file as unknown as { move(name: string): Promise<void> }).move(`${data.sha256}.gguf`);
    post({ kind: "done" });
  } catch (error) {
    post({ kind: "failed", reason: reasonOf(error), detail: String(error) });
  }
};

class TokenError extends Error {}

function from({ url, token }: Order): Source {
  return async (start) => {
    const headers = new Headers(token ? { Authorization: `Bearer ${token}` } : {});
    if (start > 0) headers.set("Range", `bytes=${start}-`);
    const response = await fetch(url, { headers, cache: "no-store" });
    if (response.status === 401) throw new TokenError("401");
    if (!response.ok || !response.body) throw new TypeError(`HTTP ${response.status}`);
    const range = /^bytes (\d+)-/.exec(response.headers.get("Content-Range") ?? "");
    return { start: response.status === 206 && range ? Number(range[1]) : 0, body: response.body };
  };
}

function throttled(): (bytes: number) => void {
  let last = 0;
  return (bytes) => {
    const now = performance.now();
    if (now - last < 150) return;
    last = now;
    post({ kind: "progress", bytes });
  };
}

function reasonOf(error: unknown): "damaged" | "space" | "token" | "network" {
  if (error instanceof DamagedError) return "damaged";
  if (error instanceof TokenError) return "token";
  return error instanceof DOMException && error.name === "QuotaExceededError" ? "space" : "network";
}
