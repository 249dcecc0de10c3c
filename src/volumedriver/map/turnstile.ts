/** Lets at most `places` holders in at a time, first come, first served. */
import { assert } from '../../base/assert.ts';

export class Turnstile {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(places: number) {
    assert(places > 0, 'a turnstile has places');
    this.#free = places;
  }

  /** True when there is a place at once; the caller then has it. */
  tryEnter(): boolean {
    if (this.#free === 0) return false;
    this.#free--;
    return true;
  }

  /** Resolves when the caller has a place. */
  enter(): Promise<void> {
    if (this.tryEnter()) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}
