/** Repeatable randomness for simulations: sfc32 (public domain, Chris Doty-Humphrey's PractRand), from one seed. */
import type { Random } from '../../src/base/random.ts';

export class SeededRandom implements Random {
  #a: number;
  #b = 0x9e3779b9;
  #c = 0x243f6a88;
  #counter = 1;

  constructor(seed: number) {
    this.#a = seed | 0;
    this.#b = (this.#b ^ Math.floor(seed / 2 ** 32)) | 0;
    for (let round = 0; round < 12; round++) this.u32();
  }

  u32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }

  /** From 0, below `end`. */
  integer(end: number): number {
    return Math.floor((this.u32() / 2 ** 32) * end);
  }

  chance(probability: number): boolean {
    return this.u32() / 2 ** 32 < probability;
  }

  bytes(count: number): Buffer {
    const bytes = Buffer.alloc(count);
    for (let index = 0; index < count; index++) bytes[index] = this.u32() & 0xff;
    return bytes;
  }
}
