/** A clock that stands still until a test moves it. */
import type { Clock } from '../../src/base/clock.ts';

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

/** Rounds of the event loop in which everything that can run has run. */
const settleRounds = 20;

export class TestClock implements Clock {
  #nowMs = 1_000_000;
  readonly #sleepers = new Set<Sleeper>();

  now(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { atMs: this.#nowMs + ms, wake: resolve };
      const stop = (): void => {
        this.#sleepers.delete(sleeper);
        reject(new Error('the wait was aborted'));
      };
      if (signal?.aborted === true) {
        stop();
        return;
      }
      signal?.addEventListener('abort', stop, { once: true });
      this.#sleepers.add(sleeper);
    });
  }

  /** Wakes, in order, who sleeps for so long, and lets them run. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    await settle();
    for (;;) {
      const [next] = [...this.#sleepers].sort((left, right) => left.atMs - right.atMs);
      if (next === undefined || next.atMs > untilMs) break;
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      this.#sleepers.delete(next);
      next.wake();
      await settle();
    }
    this.#nowMs = untilMs;
  }
}

async function settle(): Promise<void> {
  for (let round = 0; round < settleRounds; round += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}
