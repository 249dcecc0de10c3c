/**
 * The map of one volume: cluster -> (object id, index, checksum). Operations take effect in call order, at once when
 * their pages are resident and else from a queue; look-ups see them right after the call in either case.
 *
 * A page that is damaged fails the map for good when an operation needs it (`failed`, onFailure): what was called until
 * then stays readable, except that look-ups which need that page reject with CORRUPT.
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { objectClustersMax, pageEntries } from '../format/constants.ts';
import { writerOf } from '../format/location.ts';
import { FrozenTree, type FrozenMap } from './frozen-map.ts';
import { ClearOperation, SetOperation } from './map-operations.ts';
import { MapReader } from './map-reader.ts';
import { decodeRoot, emptyRoot, leafAbsent, leafMissing, type MapRoot } from './map-root.ts';
import { MapTree, type OnRelease } from './map-tree.ts';
import type { MappedRun, RunCollector } from './mapped-run.ts';
import type { PagePool } from './page-pool.ts';
import type { MissingPage } from './page-session.ts';
import { dirtyWriter, type PageSource, type PersistedRoot } from './page.ts';
import { PendingChanges } from './pending-changes.ts';
import { persistRoots, type MapObjectWriter } from './persist.ts';
import { SubtreeReleaser } from './subtree-releaser.ts';
import { UpdateQueue } from './update-queue.ts';

export type { FrozenMap } from './frozen-map.ts';
export type { OnRelease } from './map-tree.ts';
export type { MappedRun } from './mapped-run.ts';
export type { MapObjectWriter } from './persist.ts';

export interface VolumeMapOptions {
  readonly pool: PagePool;
  readonly source: PageSource;
  readonly sizeClusters: number;
  readonly root: PersistedRoot | null;
  /** The number of the snapshot interval that begins with this map; raised by setInterval. */
  readonly interval: number;
  /** Must not throw, nor call back into the map. */
  readonly onRelease: OnRelease;
  /** The map can't go on: called once, with CORRUPT. */
  readonly onFailure: (error: VolumeError) => void;
  /** A discarded subtree can't be read: its space is never reported, nothing else is wrong. */
  readonly onLeak?: (error: unknown) => void;
  readonly clock: Clock;
  /** How many clusters may be queued before pressure() asks to wait; 65536 unless given. */
  readonly queueClustersMax?: number;
  /** Pages that background work deals with before it lets others run; 256 (about a millisecond) unless given. */
  readonly pagesPerTurn?: number;
}

const queueClustersMax = 65_536;
const pagesPerTurn = 256;
/** Cut subtrees beyond this number make pressure() ask to wait. */
const cutsMax = 4096;

export class VolumeMap {
  readonly #options: VolumeMapOptions;
  readonly #pool: PagePool;
  readonly #tree: MapTree;
  readonly #reader: MapReader;
  readonly #releaser: SubtreeReleaser;
  readonly #queue: UpdateQueue;
  readonly #pending = new PendingChanges();
  readonly #pagesPerTurn: number;
  /** What operations work on. */
  readonly #parts: { readonly tree: MapTree; readonly pending: PendingChanges };
  readonly #readHead: (cluster: number, end: number, runs: RunCollector) => MissingPage | undefined;
  #sizeClusters: number;
  #interval: number;
  /** Set while a reset is queued: until it is applied, the head can't be read through the pending changes. */
  #reset: PromiseWithResolvers<void> | undefined;
  #persisting: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** Throws CORRUPT when `root` is not a root. */
  constructor(options: VolumeMapOptions) {
    const { pool, source, clock, onRelease } = options;
    this.#options = options;
    this.#pool = pool;
    this.#sizeClusters = options.sizeClusters;
    this.#interval = options.interval;
    this.#reader = new MapReader(pool, source, clock);
    const onLeak = options.onLeak ?? ((): void => undefined);
    this.#pagesPerTurn = options.pagesPerTurn ?? pagesPerTurn;
    this.#releaser = new SubtreeReleaser({
      pool,
      source,
      clock,
      onRelease,
      onLeak,
      pagesPerTurn: this.#pagesPerTurn,
    });
    this.#queue = new UpdateQueue({
      pool,
      source,
      clock,
      clustersMax: options.queueClustersMax ?? queueClustersMax,
      onFailure: options.onFailure,
    });
    this.#tree = new MapTree({
      pool,
      root: decodeRoot(options.root),
      sizeClusters: options.sizeClusters,
      interval: options.interval,
      onRelease,
      onCut: (words, at, level, since) => {
        this.#releaser.add(words, at, level, since);
      },
    });
    this.#parts = { tree: this.#tree, pending: this.#pending };
    this.#readHead = (cluster, end, runs): MissingPage | undefined =>
      this.#readLeaf(cluster, end, runs);
  }

  /** Why no operation is applied any more. */
  get failed(): VolumeError | null {
    return this.#queue.failed;
  }

  get sizeClusters(): number {
    return this.#sizeClusters;
  }

  /**
   * Maps clusters cluster.. to (objectId, index..), one per checksum; the checksums may be reused afterwards. Throws
   * `failed` once the map has failed.
   */
  setRun(cluster: number, objectId: number, index: number, checksums: Uint32Array): void {
    const count = checksums.length;
    assert(this.#isInside(cluster, count), 'a run lies inside the volume');
    assert(index + count <= objectClustersMax, 'a run lies inside its object');
    const writer = writerOf(objectId);
    assert(writer >= 1 && writer < dirtyWriter, 'a run has a location');
    this.#check();
    const run = { objectId, index, checksums };
    for (let from = 0; from < count;) {
      const at = cluster + from;
      const clusters = Math.min(count - from, pageEntries - (at % pageEntries));
      this.#queue.submit(new SetOperation(this.#parts, { cluster: at, clusters, from }, run));
      from += clusters;
    }
  }

  /** Makes holes. Throws `failed` once the map has failed. */
  clearRange(cluster: number, count: number): void {
    assert(this.#isInside(cluster, count), 'a cleared range lies inside the volume');
    this.#check();
    if (count > 0) this.#queue.submit(new ClearOperation(this.#parts, cluster, cluster + count));
  }

  /**
   * Maximal runs for [cluster, cluster + count), in order; beyond the size there are holes. An array when every page
   * is resident. Rejects with CORRUPT, or UNAVAILABLE after some seconds of trying.
   */
  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]> {
    if (this.#reset !== undefined)
      return this.#reset.promise.then(() => this.lookup(cluster, count));
    return this.#reader.lookup(cluster, count, this.#readHead);
  }

  /** Throws `failed` once the map has failed. */
  grow(sizeClusters: number): void {
    assert(sizeClusters >= this.#sizeClusters, 'a volume does not shrink');
    this.#check();
    this.#sizeClusters = sizeClusters;
    this.#inOrder(() => {
      this.#tree.sizeClusters = sizeClusters;
    });
  }

  /** The map as all calls before this one leave it. Throws `failed` once the map has failed. */
  freeze(): FrozenMap {
    this.#check();
    const frozen = new FrozenTree(this.#pool, this.#reader);
    this.#inOrder(
      () => {
        frozen.apply(this.#tree.freeze());
      },
      (error) => {
        frozen.fail(error);
      },
    );
    return frozen;
  }

  /** Later releases carry this `since`, and pages made later this birth. Throws `failed` once the map has failed. */
  setInterval(interval: number): void {
    assert(interval >= this.#interval, 'intervals are numbered upwards');
    this.#check();
    this.#interval = interval;
    this.#inOrder(() => {
      this.#tree.interval = interval;
    });
  }

  /**
   * Rollback: the head becomes `root`. `interval` is the last interval that the root contains (that of its snapshot):
   * what later intervals released is void, and nothing is reported for what only they contained, since all objects
   * born in them are dead as a whole. A frozen map must have been applied, and is still the caller's to release.
   * Throws CORRUPT when `root` is not a root, or `failed` once the map has failed.
   */
  reset(root: FrozenMap | PersistedRoot | null, sizeClusters: number, interval: number): void {
    this.#check();
    const next = this.#rootOf(root);
    this.#sizeClusters = sizeClusters;
    const done: PromiseWithResolvers<void> = Promise.withResolvers();
    done.promise.catch(() => undefined);
    this.#reset = done;
    this.#inOrder(
      () => {
        this.#releaser.cancelAfter(interval);
        this.#tree.reset(next, sizeClusters, interval);
        if (this.#reset === done) this.#reset = undefined;
        done.resolve();
      },
      (error) => {
        this.#pool.dropEntry(next.words, 0);
        done.reject(error);
      },
    );
  }

  /** Undefined, or a promise that a writer should wait for before it queues more. */
  pressure(): Promise<void> | undefined {
    if (this.#releaser.backlog > cutsMax) return this.#releaser.drained();
    return this.#queue.pressure();
  }

  /** Every call so far is applied and all that it released has been reported. Rejects when the map has failed. */
  async drained(): Promise<void> {
    await this.#queue.drained();
    await this.#releaser.drained();
  }

  /**
   * Writes what the frozen maps need and gives their roots, in order; null for an empty map. The head goes on meanwhile.
   * Pages that left the head before they were written are reported as released before it resolves. When it rejects,
   * no page refers to any object that this call allocated. Calls are carried out one after the other.
   */
  persist(
    targets: readonly FrozenMap[],
    writer: MapObjectWriter,
  ): Promise<(PersistedRoot | null)[]> {
    const held = targets.map((target) => this.#ownTree(target).hold());
    const done = this.#persisting.then(async () => {
      const roots = await holdAll(this.#pool, held);
      const { clock, onRelease } = this.#options;
      return await persistRoots({
        pool: this.#pool,
        roots,
        writer,
        clock,
        onRelease,
        pagesPerTurn: this.#pagesPerTurn,
      });
    });
    this.#persisting = done.catch(() => undefined);
    return done;
  }

  /** Lets go of the head, without reports; idempotent. Frozen maps live on until they are released. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue.close();
    this.#releaser.close();
    this.#tree.close();
  }

  #rootOf(root: FrozenMap | PersistedRoot | null): MapRoot {
    if (root === null) return emptyRoot();
    if (!('lookup' in root)) return decodeRoot(root);
    return this.#ownTree(root).share();
  }

  #ownTree(frozen: FrozenMap): FrozenTree {
    assert(
      frozen instanceof FrozenTree && frozen.isOf(this.#reader),
      'a frozen map comes from freeze() of the same map',
    );
    return frozen;
  }

  #check(): void {
    assert(!this.#closed, 'a closed map is not changed');
    if (this.#queue.failed !== null) throw this.#queue.failed;
  }

  #isInside(cluster: number, count: number): boolean {
    return cluster >= 0 && count >= 0 && cluster + count <= this.#sizeClusters;
  }

  #inOrder(apply: () => void, fail?: (error: VolumeError) => void): void {
    this.#queue.submit({
      clusters: 1,
      apply: () => {
        apply();
        return undefined;
      },
      ...(fail && { fail }),
    });
  }

  #readLeaf(cluster: number, end: number, runs: RunCollector): MissingPage | undefined {
    if (this.#closed) throw new VolumeError('SHUTTING_DOWN', 'reading the map: it was closed');
    if (this.#pending.isEmpty) {
      return this.#reader.readLeaf(this.#tree.root, cluster, end, runs);
    }
    let leaf: Uint32Array | undefined;
    if (!this.#pending.covers(cluster, end)) {
      const frame = this.#tree.findLeaf(Math.floor(cluster / pageEntries));
      if (frame === leafMissing) return this.#tree.missing;
      if (frame !== leafAbsent) leaf = this.#pool.words(frame);
    }
    this.#pending.read(cluster, end, leaf, runs);
    return undefined;
  }
}

/** All roots, or none: when one can't be had, the others are let go. */
async function holdAll(pool: PagePool, held: readonly Promise<MapRoot>[]): Promise<MapRoot[]> {
  const outcomes = await Promise.allSettled(held);
  const failure = outcomes.find((outcome) => outcome.status === 'rejected');
  const roots = outcomes.filter((outcome) => outcome.status === 'fulfilled').map((o) => o.value);
  if (failure === undefined) return roots;
  for (const root of roots) pool.dropEntry(root.words, 0);
  throw failure.reason;
}
