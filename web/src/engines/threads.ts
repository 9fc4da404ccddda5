/** How many threads answer fastest here: llama.cpp's wait for each other without rest, so where
 * cores are busy two are far slower than one. */

/** Most that helps on phones, whose small cores slow the fast ones down. */
const MOST_THREADS = 4;
/** Milliseconds a token and megabyte of the model from which one thread is tried too: fast phones and
 * laptops take 0.3 to 1, slow ones up to 2. */
const SUSPECT = 2;

/** Threads where the page may share memory between them, else one. */
export function threadCount(isolated: boolean, cores: number): number {
  return isolated ? Math.max(1, Math.min(MOST_THREADS, Math.max(2, Math.floor(cores / 2)), cores)) : 1;
}

/** Whether a token took longer than threads that are not hindered would. */
export function isSuspect(msPerToken: number, modelBytes: number): boolean {
  return msPerToken > (SUSPECT * modelBytes) / 1e6;
}

/** Something loaded, and how long a token took it. */
export interface Tried {
  readonly msPerToken: number;
}

/**
 * Loads with so many threads; where that is suspiciously slow, with one too, and keeps the faster.
 *
 * @param load Loads with so many threads and tries them.
 * @param unload Frees what was loaded.
 */
export async function fastest<T extends Tried>(
  load: (threads: number) => Promise<T>,
  unload: (loaded: T) => Promise<void>,
  threads: number,
  modelBytes: number,
): Promise<T> {
  const wide = await load(threads);
  if (threads === 1 || !isSuspect(wide.msPerToken, modelBytes)) return wide;
  await unload(wide);
  const narrow = await load(1);
  if (narrow.msPerToken <= wide.msPerToken) return narrow;
  await unload(narrow);
  return load(threads);
}
