/** Model files on this device. */

import type { DeviceFile } from "../engines/api";
import { forgetFile, listFiles, recordFile, type InstalledFile } from "./database";
import type { Order, Report } from "./download.worker";
import { FOLDER } from "./folder";

export class InstallError extends Error {
  constructor(
    readonly reason: "damaged" | "space" | "token" | "network",
    detail: string,
  ) {
    super(detail);
    this.name = "InstallError";
  }
}

async function folder(): Promise<FileSystemDirectoryHandle> {
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(FOLDER, { create: true });
}

/** Whether this browser can keep model files at all. */
export function canStore(): boolean {
  return typeof navigator.storage?.getDirectory === "function";
}

/**
 * Brings a file onto the device, going on where an earlier attempt stopped.
 *
 * @throws InstallError, or the signal's reason when it aborts (what came so far is kept).
 */
export async function install(
  file: DeviceFile,
  token: string | null,
  progress: (bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  // Not waited for: Firefox asks the user, who may leave the question open.
  void navigator.storage.persist?.().catch(() => false);
  const worker = new Worker(new URL("./download.worker.ts", import.meta.url), { type: "module" });
  try {
    await new Promise<void>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      worker.onerror = (event) => reject(new InstallError("network", event.message));
      worker.onmessage = ({ data }: MessageEvent<Report>) => {
        if (data.kind === "progress") progress(data.bytes);
        else if (data.kind === "done") resolve();
        else reject(new InstallError(data.reason, data.detail));
      };
      const { url, bytes, sha256 } = file;
      worker.postMessage({ url, bytes, sha256, token } satisfies Order);
    });
  } finally {
    worker.terminate();
  }
  const { sha256, name, kind, bytes } = file;
  await recordFile({ sha256, name, kind, bytes, installedAt: Date.now() });
}

/** Those that are whole; a record whose file the browser has cleared away is dropped. */
export async function installed(): Promise<InstalledFile[]> {
  if (!canStore()) return [];
  const whole: InstalledFile[] = [];
  for (const record of await listFiles()) {
    const blob = await open(record.sha256);
    if (blob?.size === record.bytes) whole.push(record);
    else await forgetFile(record.sha256);
  }
  return whole;
}

/** Bytes of an interrupted download by its SHA-256. */
export async function partial(sha256: string): Promise<number> {
  if (!canStore()) return 0;
  return (await read(`${sha256}.part`))?.size ?? 0;
}

/** The file's content, read from the disk as it is needed. */
export async function open(sha256: string): Promise<Blob | null> {
  return read(`${sha256}.gguf`);
}

async function read(name: string): Promise<Blob | null> {
  try {
    return await (await (await folder()).getFileHandle(name)).getFile();
  } catch {
    return null;
  }
}

/** Takes a file, whole or in part, off the device. */
export async function remove(sha256: string): Promise<void> {
  const place = await folder();
  for (const name of [`${sha256}.gguf`, `${sha256}.part`]) {
    await place.removeEntry(name).catch((error: unknown) => {
      if (!(error instanceof DOMException && error.name === "NotFoundError")) throw error;
    });
  }
  await forgetFile(sha256);
}
