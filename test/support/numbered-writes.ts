/**
 * A sequence of writes that can be told apart on a disk: write N of a seed always goes to the same clusters, and every
 * cluster names its write and the life (the time between two power cuts) in which it was issued. What comes back after
 * a power cut must be a prefix of the sequence, and the sequence goes on behind it in the next life.
 */
import { SeededRandom } from './seeded-random.ts';

const clusterBytes = 4096;
const clustersMax = 16;

export interface NumberedWrite {
  readonly number: number;
  readonly cluster: number;
  readonly count: number;
}

export class NumberedWrites {
  readonly #seed: number;
  readonly #clusterCount: number;
  /** The first write of each life, in order; the numbers of a life end where the next one starts. */
  readonly #lives: readonly number[];

  /** Writes are numbered from 1. */
  constructor(options: { seed: number; clusterCount: number; lives: readonly number[] }) {
    this.#seed = options.seed;
    this.#clusterCount = options.clusterCount;
    this.#lives = options.lives;
  }

  write(number: number): NumberedWrite {
    const random = new SeededRandom(this.#seed * 2 ** 20 + number);
    const count = random.chance(0.5) ? 1 : 1 + random.integer(clustersMax);
    return { number, count, cluster: random.integer(this.#clusterCount - count + 1) };
  }

  content({ number, cluster, count }: NumberedWrite): Buffer {
    const words = new Uint32Array((count * clusterBytes) / 4);
    const life = this.#lifeOf(number);
    for (let at = 0; at < words.length; at += 4) {
      words[at] = number;
      words[at + 1] = cluster + Math.floor((at * 4) / clusterBytes);
      words[at + 2] = life;
      words[at + 3] = ~number;
    }
    return Buffer.from(words.buffer);
  }

  /**
   * The number of the last write of which `volume` holds anything. Throws unless everything up to it is there as well;
   * of the last one itself clusters may be missing, if it was never `flushed`.
   */
  lastOf(volume: Buffer, flushed: number): number {
    const found = Array.from({ length: this.#clusterCount }, (_, at) =>
      this.#numberAt(volume.subarray(at * clusterBytes, (at + 1) * clusterBytes), at),
    );
    const last = found.reduce((most, each) => Math.max(most, each), 0);
    if (last < flushed) throw new Error(`the last write is ${last}, but ${flushed} was flushed`);
    const expected = new Uint32Array(this.#clusterCount);
    for (let number = 1; number < last; number++) this.#apply(expected, number);
    const before = expected.slice();
    if (last > 0) this.#apply(expected, last);
    for (const [at, number] of found.entries()) {
      if (number === expected[at] || (last > flushed && number === before[at])) continue;
      const should = `${expected[at] ?? 0} of ${last}, of which ${flushed} were flushed`;
      throw new Error(`cluster ${at} holds write ${number} and should hold ${should}`);
    }
    return last;
  }

  #apply(expected: Uint32Array, number: number): void {
    const { cluster, count } = this.write(number);
    expected.fill(number, cluster, cluster + count);
  }

  #numberAt(bytes: Buffer, cluster: number): number {
    const number = bytes.readUInt32LE(0);
    const whole =
      number === 0 ? Buffer.alloc(clusterBytes) : this.content({ number, cluster, count: 1 });
    if (bytes.equals(whole)) return number;
    throw new Error(`cluster ${cluster} holds no write as it was made: ${describe(bytes)}`);
  }

  #lifeOf(number: number): number {
    return this.#lives.findLastIndex((first) => first <= number);
  }
}

function describe(bytes: Buffer): string {
  return `${bytes.toString('hex', 0, 16)}…${bytes.toString('hex', clusterBytes - 16)}`;
}
