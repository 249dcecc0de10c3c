/** The answer of a look-up: maximal runs of clusters that lie side by side in one object, and holes. */
import { objectClustersMax } from '../format/constants.ts';
import { indexOf, objectIdOf } from '../format/location.ts';
import { entryWords } from './page.ts';

/** Consecutive clusters of one object, or a hole (objectId 0, index 0, no checksums). */
export interface MappedRun {
  readonly clusterCount: number;
  readonly objectId: number;
  readonly index: number;
  readonly checksums: Uint32Array;
}

const noChecksums = new Uint32Array(0);

/** Puts runs together from clusters in ascending order. */
export class RunCollector {
  readonly #runs: MappedRun[] = [];
  /** The checksums of all runs, one behind the other. */
  readonly #checksums: Uint32Array;
  #used = 0;
  /** The run that may still grow: its first location (writer 0: a hole) and its length. */
  #low = 0;
  #writer = 0;
  #count = 0;

  /** `count` is the most clusters that will be added. */
  constructor(count: number) {
    this.#checksums = new Uint32Array(count);
  }

  addHole(count: number): void {
    if (this.#writer !== 0 || this.#count === 0) this.#begin(0, 0);
    this.#count += count;
  }

  add(low: number, writer: number, checksum: number): void {
    const isNext =
      this.#count > 0 &&
      writer === this.#writer &&
      low === this.#low + this.#count &&
      low % objectClustersMax !== 0;
    if (!isNext) this.#begin(low, writer);
    this.#checksums[this.#used++] = checksum;
    this.#count++;
  }

  /** Adds `count` entries of a leaf, the first of which starts at words[at]. */
  addEntries(words: Uint32Array, at: number, count: number): void {
    for (let end = at + count * entryWords; at < end; at += entryWords) {
      const writer = words[at + 1] ?? 0;
      if (writer === 0) this.addHole(1);
      else this.add(words[at] ?? 0, writer, words[at + 2] ?? 0);
    }
  }

  finish(): MappedRun[] {
    this.#end();
    this.#count = 0;
    return this.#runs;
  }

  #begin(low: number, writer: number): void {
    this.#end();
    this.#low = low;
    this.#writer = writer;
    this.#count = 0;
  }

  #end(): void {
    const clusterCount = this.#count;
    if (clusterCount === 0) return;
    const isHole = this.#writer === 0;
    const whole = clusterCount === this.#checksums.length;
    const from = this.#used - clusterCount;
    this.#runs.push({
      clusterCount,
      objectId: objectIdOf(this.#writer, this.#low),
      index: isHole ? 0 : indexOf(this.#low),
      checksums: isHole
        ? noChecksums
        : whole
          ? this.#checksums
          : this.#checksums.subarray(from, this.#used),
    });
  }
}
