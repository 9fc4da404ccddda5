/** llama.cpp's WebAssembly files on this device: self-hosted, stored when a model is installed. */

import compatScript from "@wllama/wllama-compat/wasm/wllama.js?url";
import compatWasm from "@wllama/wllama-compat/wasm/wllama.wasm?url";
import wasm from "@wllama/wllama/esm/wasm/wllama.wasm?url";

import { AskError } from "./engine";

const CACHE = "medimind-engine";

export interface Runtime {
  /** Object URL of the WebAssembly for browsers with JSPI and 64-bit memories. */
  readonly wasm: string;
  /** The same for all others (Safari); slower. */
  readonly compat: { readonly worker: { readonly code: string }; readonly wasm: string };
}

/** Whether this browser needs the compat build. */
export function needsCompat(): boolean {
  const hasSuspending = "Suspending" in WebAssembly;
  try {
    new WebAssembly.Memory({ address: "i64", initial: 1n } as unknown as WebAssembly.MemoryDescriptor);
    return !hasSuspending;
  } catch {
    return true;
  }
}

const needed = (): string[] => (needsCompat() ? [compatWasm, compatScript] : [wasm]);

/** Stores what this browser needs, so that answering works without a network. */
export async function storeRuntime(): Promise<void> {
  const cache = await caches.open(CACHE);
  const current = needed().map((path) => new URL(path, location.origin).href);
  for (const request of await cache.keys()) {
    if (!current.includes(request.url)) await cache.delete(request);
  }
  for (const url of current) {
    if (!(await cache.match(url))) await cache.add(url);
  }
}

/** Bytes of the stored engine. */
export async function runtimeBytes(): Promise<number> {
  const cache = await caches.open(CACHE);
  let bytes = 0;
  for (const request of await cache.keys()) {
    bytes += (await (await cache.match(request))?.blob())?.size ?? 0;
  }
  return bytes;
}

/** The files as object URLs; from the network where they are not stored yet. */
export async function openRuntime(): Promise<Runtime> {
  await storeRuntime().catch(() => undefined);
  if (!needsCompat()) {
    return { wasm: await objectUrl(wasm), compat: { worker: { code: "" }, wasm: "" } };
  }
  const code = await (await stored(compatScript)).text();
  return { wasm: "", compat: { worker: { code }, wasm: await objectUrl(compatWasm) } };
}

async function objectUrl(path: string): Promise<string> {
  const bytes = await (await stored(path)).arrayBuffer();
  return URL.createObjectURL(new Blob([bytes], { type: "application/wasm" }));
}

async function stored(path: string): Promise<Response> {
  const kept = await (await caches.open(CACHE)).match(new URL(path, location.origin).href);
  if (kept) return kept;
  try {
    const response = await fetch(path);
    if (response.ok) return response;
  } catch {
    // told below, as for any other answer
  }
  throw new AskError("unreachable");
}
