/** The map of one volume: cluster -> (object id, index, checksum). */
import type { Clock } from '../../base/clock.ts';
import type { VolumeError } from '../../volumes/errors.ts';
import type { PagePool } from './page-pool.ts';
import type { PageSource, PersistedRoot } from './page.ts';

export interface VolumeMapOptions {
  readonly pool: PagePool;
  readonly source: PageSource;
  readonly sizeClusters: number;
  readonly root: PersistedRoot | null;
  /** The number of the snapshot interval that begins with this map; raised by setInterval. */
  readonly interval: number;
  readonly onRelease: OnRelease;
  /** The map can't go on: called once, with CORRUPT. */
  readonly onFailure: (error: VolumeError) => void;
  readonly clock: Clock;
  /** How many clusters may be queued before pressure() asks to wait; 65536 unless given. */
  readonly queueClustersMax?: number;
}

/**
 * A cluster or a map page left the head in interval `since`. Snapshots of earlier intervals may still hold it. Must
 * not throw, nor call back into the map.
 */
export type OnRelease = (objectId: number, index: number, since: number) => void;

/** Consecutive clusters of one object, or a hole (objectId 0, index 0, no checksums). */
export interface MappedRun {
  readonly clusterCount: number;
  readonly objectId: number;
  readonly index: number;
  readonly checksums: Uint32Array;
}

/** A map as it was at a freeze(). */
export interface FrozenMap {
  /** As VolumeMap.lookup. */
  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]>;
  /** All operations before the freeze are in it. Rejects when the map fails before that. */
  readonly applied: Promise<void>;
  /** Lets go of the pages; idempotent. A persist that has it as a target goes on. */
  release(): void;
}

/** Where persist() puts map objects. */
export interface MapObjectWriter {
  /** A new object id for pages that were made in interval `birth`. */
  allocateObject(birth: number): number;
  /** Stores the pages at indices 0.. of the object. The buffers are reused once the promise settles. */
  writeObject(objectId: number, birth: number, pages: readonly Uint8Array[]): Promise<void>;
}

export class VolumeMap {
  constructor(options: VolumeMapOptions) {
    void options;
  }

  get failed(): VolumeError | null {
    throw new Error('not yet');
  }

  get sizeClusters(): number {
    throw new Error('not yet');
  }

  /** Maps clusters cluster.. to (objectId, index..), one per checksum. Throws `failed` once the map has failed. */
  setRun(cluster: number, objectId: number, index: number, checksums: Uint32Array): void {
    void [cluster, objectId, index, checksums];
    throw new Error('not yet');
  }

  clearRange(cluster: number, count: number): void {
    void [cluster, count];
    throw new Error('not yet');
  }

  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]> {
    void [cluster, count];
    throw new Error('not yet');
  }

  grow(sizeClusters: number): void {
    void sizeClusters;
    throw new Error('not yet');
  }

  freeze(): FrozenMap {
    throw new Error('not yet');
  }

  setInterval(interval: number): void {
    void interval;
    throw new Error('not yet');
  }

  /**
   * Rollback: the head becomes `root`. `interval` is the last interval that the root contains (that of its snapshot):
   * what later intervals released is void, and nothing is reported for what only they contained, since all objects
   * born in them are dead as a whole.
   */
  reset(root: FrozenMap | PersistedRoot | null, sizeClusters: number, interval: number): void {
    void [root, sizeClusters, interval];
    throw new Error('not yet');
  }

  /** Undefined, or a promise that a writer should wait for before it queues more. */
  pressure(): Promise<void> | undefined {
    throw new Error('not yet');
  }

  /** The queue is empty and everything released so far has been reported. Rejects when the map has failed. */
  drained(): Promise<void> {
    throw new Error('not yet');
  }

  /** Writes what the frozen maps need and gives their roots, in order; null for an empty map. */
  persist(
    targets: readonly FrozenMap[],
    writer: MapObjectWriter,
  ): Promise<(PersistedRoot | null)[]> {
    void [targets, writer];
    throw new Error('not yet');
  }

  /** Lets go of the head, without reports; idempotent. Frozen maps live on until they are released. */
  close(): void {
    throw new Error('not yet');
  }
}
