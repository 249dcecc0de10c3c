/** Waits of the steps: each has a limit, and one that ends at it says what was seen last. */

export class WaitTimeout extends Error {
  override readonly name = 'WaitTimeout';
}

/** A probe's answer: `undefined` to be asked again. A rejection ends the wait. */
export type Probe<T> = () => Promise<T | undefined>;

export interface WaitOptions {
  readonly limitMs?: number;
  readonly everyMs?: number;
  /** Told in the error, to save a second look. */
  readonly lastSeen?: () => Promise<string>;
}

export async function until<T>(
  what: string,
  probe: Probe<T>,
  options: WaitOptions = {},
): Promise<T> {
  const { limitMs = 90_000, everyMs = 250, lastSeen } = options;
  const deadline = performance.now() + limitMs;
  for (;;) {
    const answer = await probe();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) break;
    await delay(everyMs);
  }
  const seen = lastSeen === undefined ? '' : `\n${await lastSeen().catch(describe)}`;
  throw new WaitTimeout(`${what}: not within ${limitMs / 1000} s${seen}`);
}

/** Rejects when it takes longer; what it waits for goes on, unheard. */
export async function within<T>(what: string, limitMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(new WaitTimeout(`${what}: no answer within ${limitMs / 1000} s`));
    }, limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function describe(error: unknown): string {
  return `(what was seen last could not be asked: ${String(error)})`;
}
