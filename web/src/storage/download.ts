/** Writing one file into the origin's file system: resumable, and held to its SHA-256. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

/** Where bytes go; a `FileSystemSyncAccessHandle`, or memory in tests. */
export interface Target {
  getSize(): number;
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
}

export interface Wanted {
  readonly bytes: number;
  readonly sha256: string;
}

/** Gives the file from byte `from` on, or the whole file if the server does not resume. */
export type Source = (from: number) => Promise<{ start: number; body: ReadableStream<Uint8Array> }>;

export class DamagedError extends Error {
  override name = "DamagedError";
}

const BLOCK = 1 << 20;
const FLUSH_EVERY = 8 << 20;

/**
 * Fills `target` until it is the wanted file. What an earlier attempt left there is kept and
 * hashed first, so that the sum covers every byte on the disk.
 *
 * @throws DamagedError if size or sum differ; the target is then empty.
 */
export async function download(
  target: Target,
  wanted: Wanted,
  source: Source,
  progress: (bytes: number) => void,
): Promise<void> {
  if (target.getSize() > wanted.bytes) target.truncate(0);
  let hash = sha256.create();
  let written = hashExisting(target, hash);
  progress(written);
  if (written < wanted.bytes) {
    const { start, body } = await source(written);
    if (start !== written) {
      target.truncate(0);
      hash = sha256.create();
      written = 0;
      if (start !== 0) throw new DamagedError(`the server began at byte ${start}`);
    }
    written = await append(target, written, wanted.bytes, body, hash, progress);
  }
  if (written < wanted.bytes) throw new TypeError("the connection ended early");
  if (bytesToHex(hash.digest()) !== wanted.sha256) {
    target.truncate(0);
    throw new DamagedError("the sum of the file differs from what the server promised");
  }
  target.flush();
}

type Hash = ReturnType<typeof sha256.create>;

function hashExisting(target: Target, hash: Hash): number {
  const size = target.getSize();
  const block = new Uint8Array(BLOCK);
  for (let at = 0; at < size; ) {
    const count = target.read(block.subarray(0, Math.min(BLOCK, size - at)), { at });
    if (count === 0) return at;
    hash.update(block.subarray(0, count));
    at += count;
  }
  return size;
}

async function append(
  target: Target,
  from: number,
  limit: number,
  body: ReadableStream<Uint8Array>,
  hash: Hash,
  progress: (bytes: number) => void,
): Promise<number> {
  const reader = body.getReader();
  let written = from;
  let flushed = from;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return written;
      if (written + value.length > limit) {
        target.truncate(0);
        throw new DamagedError("the file is longer than the server promised");
      }
      if (target.write(value, { at: written }) !== value.length) throw new DOMException("", "QuotaExceededError");
      hash.update(value);
      written += value.length;
      if (written - flushed >= FLUSH_EVERY) {
        target.flush();
        flushed = written;
      }
      progress(written);
    }
  } finally {
    target.flush();
    await reader.cancel().catch(() => undefined);
  }
}
