/** A pinned root that may still wait, in the queue, for the operations before it. */
import { assert } from '../../base/assert.ts';
import type { VolumeError } from '../../volumes/errors.ts';
import type { MapReader } from './map-reader.ts';
import { shareRoot, type MapRoot } from './map-root.ts';
import type { MappedRun } from './mapped-run.ts';
import type { PagePool } from './page-pool.ts';

/** A map as it was at a freeze(). */
export interface FrozenMap {
  /** As VolumeMap.lookup. */
  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]>;
  /** All operations before the freeze are in it. Rejects when the map fails before that. */
  readonly applied: Promise<void>;
  /** Lets go of the pages; idempotent. A persist that has it as a target goes on. */
  release(): void;
}

export class FrozenTree implements FrozenMap {
  readonly applied: Promise<void>;
  readonly #pool: PagePool;
  readonly #reader: MapReader;
  #root: MapRoot | undefined;
  #released = false;
  /** Look-ups under way. */
  #readers = 0;
  #failure: VolumeError | undefined;
  /** Those who asked to hold the root before it was there. */
  readonly #holders: PromiseWithResolvers<MapRoot>[] = [];
  #resolve: () => void = () => undefined;
  #reject: (error: VolumeError) => void = () => undefined;

  constructor(pool: PagePool, reader: MapReader) {
    this.#pool = pool;
    this.#reader = reader;
    this.applied = new Promise<void>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // The map reports its failure itself; whoever waits here learns it as well.
    this.applied.catch(() => undefined);
  }

  /** Takes over the root's reference. */
  apply(root: MapRoot): void {
    for (const holder of this.#holders.splice(0)) holder.resolve(shareRoot(this.#pool, root));
    this.#root = root;
    this.#dropUnread();
    this.#resolve();
  }

  /** Whether it was frozen from the map that reads with `reader`. */
  isOf(reader: MapReader): boolean {
    return reader === this.#reader;
  }

  fail(error: VolumeError): void {
    this.#failure = error;
    this.#reject(error);
    for (const holder of this.#holders.splice(0)) holder.reject(error);
  }

  /** A reference of the caller's own to the root. The marker must have been applied and not been released. */
  share(): MapRoot {
    assert(this.#root !== undefined, 'a frozen map is used between applied and release');
    return shareRoot(this.#pool, this.#root);
  }

  /** As share(), as soon as the marker is applied; a release after this call does not matter. */
  hold(): Promise<MapRoot> {
    assert(!this.#released, 'a frozen map is used before its release');
    if (this.#root !== undefined) return Promise.resolve(shareRoot(this.#pool, this.#root));
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const holder = Promise.withResolvers<MapRoot>();
    this.#holders.push(holder);
    return holder.promise;
  }

  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]> {
    assert(!this.#released, 'a frozen map is read before its release');
    if (this.#root === undefined) return this.#lookupLater(cluster, count);
    return this.#lookupNow(this.#root, cluster, count);
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#dropUnread();
  }

  #lookupNow(root: MapRoot, cluster: number, count: number): MappedRun[] | Promise<MappedRun[]> {
    const answer = this.#reader.lookup(cluster, count, (at, end, runs) =>
      this.#reader.readLeaf(root, at, end, runs),
    );
    return Array.isArray(answer) ? answer : this.#reading(answer);
  }

  async #lookupLater(cluster: number, count: number): Promise<MappedRun[]> {
    return await this.#reading(
      this.applied.then(() => {
        assert(this.#root !== undefined, 'a root is kept for those who wait for it');
        return this.#lookupNow(this.#root, cluster, count);
      }),
    );
  }

  /** Keeps the root until the answer is there: a release meanwhile must not turn it into holes. */
  async #reading<T>(answer: Promise<T>): Promise<T> {
    this.#readers++;
    try {
      return await answer;
    } finally {
      this.#readers--;
      this.#dropUnread();
    }
  }

  #dropUnread(): void {
    if (!this.#released || this.#readers > 0 || this.#root === undefined) return;
    this.#pool.dropEntry(this.#root.words, 0);
    this.#root = undefined;
  }
}
