/** A bound for waits on services that take no time limit of their own. */
import { VolumeError } from '../volumes/errors.ts';

/** UNAVAILABLE after `timeoutMs`; the work itself goes on, and its later result is dropped. */
export async function within<Result>(
  timeoutMs: number,
  what: string,
  work: Promise<Result>,
): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(new VolumeError('UNAVAILABLE', `${what}: no answer within ${timeoutMs} ms`));
    }, timeoutMs);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}
