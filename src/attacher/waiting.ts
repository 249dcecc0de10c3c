/** Bounded waiting for things outside of this process. */
import type { Clock } from '../base/clock.ts';
import { VolumeError } from '../volumes/errors.ts';

/** Asks until the answer is true, at least once; false when `timeoutMs` passed without. */
export async function waitUntil(
  clock: Clock,
  options: { timeoutMs: number; everyMs: number },
  question: () => Promise<boolean>,
): Promise<boolean> {
  const deadlineMs = clock.monotonicMs() + options.timeoutMs;
  while (!(await question())) {
    if (clock.monotonicMs() >= deadlineMs) return false;
    await clock.sleep(options.everyMs);
  }
  return true;
}

/** Runs `work` with a signal that is aborted, with UNAVAILABLE as its reason, after `timeoutMs`. */
export async function withTimeLimit<T>(
  clock: Clock,
  options: { timeoutMs: number; what: string },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const limit = new AbortController();
  const done = new AbortController();
  const timer = clock.sleep(options.timeoutMs, done.signal).then(
    () => {
      limit.abort(
        new VolumeError('UNAVAILABLE', `${options.what}: no answer after ${options.timeoutMs} ms`),
      );
    },
    // Aborted: the work ended in time.
    () => undefined,
  );
  try {
    return await work(limit.signal);
  } finally {
    done.abort();
    await timer;
  }
}

/**
 * The same for work that nothing can end: it goes on by itself when its time is up, and what becomes of it then concerns
 * nobody any more.
 */
export async function abandonAfter<T>(
  clock: Clock,
  limit: { timeoutMs: number; what: string },
  work: Promise<T>,
): Promise<T> {
  work.catch(() => undefined);
  return await withTimeLimit(clock, limit, (signal) => Promise.race([work, rejectionOf(signal)]));
}

function rejectionOf(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => {
      reject(signal.reason as Error);
    });
  });
}
