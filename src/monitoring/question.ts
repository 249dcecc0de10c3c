/**
 * A question that many ask and that may stay without an answer: it is asked once at a time, and whoever asks waits only so
 * long. What nobody answers must not pile up.
 */
import type { Clock } from '../base/clock.ts';
import { VolumeError } from '../volumes/errors.ts';

export class Question<Answer> {
  readonly #clock: Clock;
  readonly #freshMs: number;
  readonly #ask: () => Promise<Answer>;
  #last: { answer: Promise<Answer>; atMs: number; open: boolean } | null = null;

  /** An answer serves for `freshMs`. */
  constructor(clock: Clock, freshMs: number, ask: () => Promise<Answer>) {
    this.#clock = clock;
    this.#freshMs = freshMs;
    this.#ask = ask;
  }

  /** Rejects as the question does, or with UNAVAILABLE after `limitMs`. */
  async ask(limitMs: number): Promise<Answer> {
    const answered = new AbortController();
    const late = this.#clock.sleep(limitMs, answered.signal).then(
      () => null,
      () => null, // answered before
    );
    const answer = this.#current().then((value) => ({ value }));
    const first = await Promise.race([answer, late]).finally(() => {
      answered.abort();
    });
    if (first !== null) return first.value;
    throw new VolumeError('UNAVAILABLE', `no answer within ${limitMs} ms`);
  }

  #current(): Promise<Answer> {
    const nowMs = this.#clock.monotonicMs();
    const last = this.#last;
    if (last !== null && (last.open || nowMs - last.atMs < this.#freshMs)) return last.answer;
    const asked = { answer: this.#ask(), atMs: nowMs, open: true };
    const close = (): void => {
      asked.open = false;
    };
    asked.answer.then(close, close);
    this.#last = asked;
    return asked.answer;
  }
}
