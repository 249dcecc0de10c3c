/** Something that is done again and again until it is closed, never twice at once. */
import type { Clock } from '../../base/clock.ts';

export class Repetition {
  readonly #stop = new AbortController();
  readonly #ended: Promise<void>;

  /** `action` resolves with the pause before its next turn, in milliseconds; it does not reject. */
  constructor(clock: Clock, action: () => Promise<number>, firstPauseMs: number) {
    this.#ended = this.#run(clock, action, firstPauseMs);
  }

  /** Resolves when a turn under way has ended. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#ended;
  }

  async #run(clock: Clock, action: () => Promise<number>, firstPauseMs: number): Promise<void> {
    const { signal } = this.#stop;
    let pauseMs = firstPauseMs;
    for (;;) {
      await clock.sleep(pauseMs, signal).catch(() => undefined); // closed: seen below
      if (signal.aborted) return;
      pauseMs = await action();
    }
  }
}

/** How often files that somebody else writes are looked at. Kubernetes itself takes up to a minute to change them. */
export const filePollMs = 10_000;
