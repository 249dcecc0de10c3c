/**
 * What a map needs around it, in memory: a clock that moves only when told, a spill file, and a backend of map objects
 * whose reads and writes take time by that clock, fail when told and can be damaged. Everything follows from the seed.
 */
import type { Clock } from '../../src/base/clock.ts';
import type { DiskFile } from '../../src/volumedriver/disk/disk.ts';
import { makeObjectId, writerOf } from '../../src/volumedriver/format/location.ts';
import type { PageSource } from '../../src/volumedriver/map/page.ts';
import type { MapObjectWriter } from '../../src/volumedriver/map/volume-map.ts';
import { VolumeError } from '../../src/volumes/errors.ts';

/** A small generator (mulberry32) with its own state: uniform integers below `end`. */
export function numbersFrom(seed: number): (end: number) => number {
  let state = seed >>> 0;
  return (end) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % end;
  };
}

/** More steps than any test needs: what is still pending then will never settle. */
const stepsMax = 20_000;

interface Sleeper {
  readonly at: number;
  readonly wake: () => void;
}

export class ManualClock implements Clock {
  #now = 0;
  #sleepers: Sleeper[] = [];

  now(): number {
    return this.#now;
  }

  monotonicMs(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        reject(new Error('aborted'));
      };
      if (signal?.aborted) {
        stop();
        return;
      }
      signal?.addEventListener('abort', stop, { once: true });
      this.#sleepers.push({ at: this.#now + ms, wake: resolve });
    });
  }

  /** Lets everything run that can run, then moves time to the next sleeper; false when nobody sleeps. */
  async step(): Promise<boolean> {
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#sleepers.length === 0) return false;
    this.#now = this.#sleepers.reduce((least, sleeper) => Math.min(least, sleeper.at), Infinity);
    const due = this.#sleepers.filter((sleeper) => sleeper.at <= this.#now);
    this.#sleepers = this.#sleepers.filter((sleeper) => sleeper.at > this.#now);
    for (const sleeper of due) sleeper.wake();
    return true;
  }

  /** Runs until `promise` settles, and gives its outcome. */
  async finish<T>(promise: T | Promise<T>): Promise<T> {
    const outcome = Promise.resolve(promise);
    const settled = outcome.then(
      () => true,
      () => true,
    );
    let idle = 0;
    for (let steps = 0; idle < 100 && steps < stepsMax; steps++) {
      if (await Promise.race([settled, Promise.resolve(false)])) return await outcome;
      idle = (await this.step()) ? 0 : idle + 1;
    }
    throw new Error('nothing runs any more, but the promise is pending');
  }

  /** Runs until nobody sleeps. */
  async rest(): Promise<void> {
    for (let steps = 0; await this.step(); steps++) {
      if (steps === stepsMax) throw new Error('somebody still goes to sleep again and again');
    }
  }
}

export class MemoryFile implements DiskFile {
  readonly path = 'memory/spill';
  bytes = new Uint8Array(0);
  writes = 0;
  /** Thrown by the next writes while set. */
  failure: VolumeError | undefined;

  write(buffers: readonly Uint8Array[], position: number): void {
    if (this.failure !== undefined) throw this.failure;
    this.writes++;
    for (const buffer of buffers) {
      const end = position + buffer.length;
      if (end > this.bytes.length) {
        const bytes = new Uint8Array(Math.max(end, this.bytes.length * 2));
        bytes.set(this.bytes);
        this.bytes = bytes;
      }
      this.bytes.set(buffer, position);
      position = end;
    }
  }

  readCached(buffer: Uint8Array, position: number): boolean {
    return this.readSync(buffer, position) === buffer.length;
  }

  readSync(buffer: Uint8Array, position: number): number {
    const part = this.bytes.subarray(position, position + buffer.length);
    buffer.set(part);
    return part.length;
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    return Promise.resolve(this.readSync(buffer, position));
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  truncate(sizeBytes: number): void {
    this.bytes = this.bytes.slice(0, sizeBytes);
  }

  sizeBytes(): number {
    return this.bytes.length;
  }

  close(): void {
    // Memory needs no closing.
  }
}

export interface StoredObject {
  readonly birth: number;
  readonly pages: Uint8Array[];
}

/** Map objects of one writer id. */
export class MapBackend implements PageSource, MapObjectWriter {
  readonly objects = new Map<number, StoredObject>();
  /** Longest delay of a read or write; 0 answers reads synchronously. */
  delayMs = 0;
  /** What the next reads fail with, while set. */
  failure: VolumeError | undefined;
  writeFailure: VolumeError | undefined;
  reads = 0;
  readonly #clock: Clock;
  readonly #random: (end: number) => number;
  readonly #writer: number;
  #counter = 0;

  constructor(clock: Clock, writer: number, random: (end: number) => number) {
    this.#clock = clock;
    this.#writer = writer;
    this.#random = random;
  }

  read(objectId: number, index: number, into: Uint8Array): true | Promise<void> {
    this.reads++;
    const copy = (): void => {
      if (this.failure !== undefined) throw this.failure;
      const page = this.objects.get(objectId)?.pages[index];
      if (page === undefined) throw new VolumeError('CORRUPT', `reading ${objectId}: no such page`);
      into.set(page);
    };
    const delay = this.#random(this.delayMs + 1);
    if (delay === 0) {
      copy();
      return true;
    }
    return this.#clock.sleep(delay).then(copy);
  }

  /** Whether it is the id of a map object of this backend. */
  isMine(objectId: number): boolean {
    return writerOf(objectId) === this.#writer;
  }

  allocateObject(): number {
    return makeObjectId(this.#writer, ++this.#counter);
  }

  async writeObject(objectId: number, birth: number, pages: readonly Uint8Array[]): Promise<void> {
    await this.#clock.sleep(this.#random(this.delayMs + 1));
    if (this.writeFailure !== undefined) throw this.writeFailure;
    this.objects.set(objectId, { birth, pages: pages.map((page) => page.slice()) });
  }
}
