/** A set of cluster indexes within one object: 4096 bits, made when the first is added. */
import { objectClustersMax } from './format/constants.ts';

const words = objectClustersMax / 32;

export class ClusterSet {
  #bits: Uint32Array | null = null;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(index: number): boolean {
    return this.#bits !== null && ((this.#bits[index >>> 5] ?? 0) & (1 << (index & 31))) !== 0;
  }

  /** False when it was there already. */
  add(index: number): boolean {
    if (this.has(index)) return false;
    this.#bits ??= new Uint32Array(words);
    this.#bits[index >>> 5] = (this.#bits[index >>> 5] ?? 0) | (1 << (index & 31));
    this.#size++;
    return true;
  }

  copy(): ClusterSet {
    const copy = new ClusterSet();
    copy.#bits = this.#bits?.slice() ?? null;
    copy.#size = this.#size;
    return copy;
  }

  /** In ascending order. */
  *[Symbol.iterator](): Generator<number> {
    if (this.#bits === null) return;
    for (let word = 0; word < words; word++) {
      let rest = this.#bits[word] ?? 0;
      while (rest !== 0) {
        const bit = 31 - Math.clz32(rest & -rest);
        rest &= rest - 1;
        yield word * 32 + bit;
      }
    }
  }
}
