/** How long to wait before a page is asked for again. */
const firstMs = 50;
const longestMs = 10_000;

/** Milliseconds to wait after `failures` earlier failures: 50 ms, doubling up to ten seconds. */
export function backoffMs(failures: number): number {
  return Math.min(longestMs, firstMs * 2 ** Math.min(failures, 20));
}
