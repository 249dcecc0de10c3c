/**
 * Writes the dirty pages that frozen roots refer to into map objects, children before parents, while the head goes
 * on: frozen pages don't change. A page's place is known as soon as it is put into an object (its parent then holds
 * the pointer), but the rest of the map learns of it only when everything is stored. So a failure leaves the map as it
 * was, and the objects allocated until then are referred to by nothing.
 *
 * An object holds pages of one birth only (the space accounting needs that), and at most 4096.
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { clusterBytes, objectClustersMax } from '../format/constants.ts';
import { clusterChecksum } from '../format/checksum.ts';
import { locationLow, objectIdOf, indexOf, writerOf } from '../format/location.ts';
import { slotStates, stillCurrent } from './dirty-table.ts';
import { encodeRoot, type MapRoot } from './map-root.ts';
import type { OnRelease } from './map-tree.ts';
import { bytesOf, type PagePool } from './page-pool.ts';
import { dirtyWriter, entryWords, pageLevelMax, pageWords, type PersistedRoot } from './page.ts';

/** Where persist() puts map objects. */
export interface MapObjectWriter {
  /** A new object id for pages that were made in interval `birth`. */
  allocateObject(birth: number): number;
  /** Stores the pages at indices 0.. of the object. The buffers are reused once the promise settles. */
  writeObject(objectId: number, birth: number, pages: readonly Uint8Array[]): Promise<void>;
}

export interface PersistOptions {
  readonly pool: PagePool;
  /** Their references are taken over. */
  readonly roots: readonly MapRoot[];
  readonly writer: MapObjectWriter;
  readonly clock: Clock;
  readonly onRelease: OnRelease;
  /** Pages written or settled before others may run. */
  readonly pagesPerTurn: number;
}

/** Objects being stored at once. */
const writesMax = 2;
/** Pages that wait in objects not yet full: beyond it the fullest is written as it is. */
const openPagesMax = objectClustersMax;
const pagesPerChunk = 256;

export async function persistRoots(options: PersistOptions): Promise<(PersistedRoot | null)[]> {
  const { pool, roots } = options;
  const run = new PersistRun(options);
  try {
    for (const root of roots) await run.write(root);
    await run.finish();
    await run.settle();
    for (const root of roots) pool.settleEntry(root.words, 0, -1);
    return roots.map(encodeRoot);
  } catch (error) {
    await run.abandon();
    throw error;
  } finally {
    for (const root of roots) pool.dropEntry(root.words, 0);
  }
}

/** A map object that is being filled. */
interface OpenObject {
  readonly objectId: number;
  readonly birth: number;
  readonly pages: Uint32Array[];
  readonly chunks: ArrayBuffer[];
}

/** An inner page whose children are being written: a copy, in which their places are filled in. */
interface Visit {
  slot: number;
  readonly page: Uint32Array;
  at: number;
}

class PersistRun {
  readonly #options: PersistOptions;
  readonly #open = new Map<number, OpenObject>();
  #openPages = 0;
  /** Full objects that are not being stored yet. */
  readonly #full: OpenObject[] = [];
  readonly #writes = new Set<Promise<void>>();
  #failure: { error: unknown } | undefined;
  readonly #spare: ArrayBuffer[] = [];
  /** Slots that have a place, children before parents. */
  readonly #placed: number[] = [];
  #settled = 0;
  /** From the root down; reused. */
  readonly #visits: Visit[] = [];
  #depth = 0;

  constructor(options: PersistOptions) {
    this.#options = options;
    for (let level = 1; level <= pageLevelMax; level++) {
      this.#visits.push({ slot: 0, page: new Uint32Array(pageWords), at: 0 });
    }
  }

  /** Gives a place to every dirty page below a root, and stores objects as they fill. */
  async write(root: MapRoot): Promise<void> {
    const { pool } = this.#options;
    pool.settleEntry(root.words, 0, -1);
    if (root.words[1] !== dirtyWriter) return;
    this.#enter(pool.slotOf(root.words, 0));
    while (this.#depth > 0) {
      const until = this.#placed.length + this.#options.pagesPerTurn;
      while (this.#depth > 0 && this.#placed.length < until && this.#full.length === 0)
        this.#step();
      await this.#store();
      await this.#options.clock.sleep(0);
    }
  }

  /** Stores what is left and waits until everything is stored. */
  async finish(): Promise<void> {
    for (const object of this.#open.values()) this.#full.push(object);
    this.#open.clear();
    await this.#store();
    while (this.#writes.size > 0) await this.#oneWrite();
  }

  /** From now on the written pages are found where they are stored. */
  async settle(): Promise<void> {
    const { pool, onRelease, clock, pagesPerTurn } = this.#options;
    const { dirty } = pool;
    for (const slot of this.#placed) {
      const since = dirty.since[slot] ?? stillCurrent;
      const low = dirty.low[slot] ?? 0;
      const writer = dirty.writer[slot] ?? 0;
      pool.settle(slot);
      this.#settled++;
      if (since !== stillCurrent) onRelease(objectIdOf(writer, low), indexOf(low), since);
      if (this.#settled % pagesPerTurn === 0) await clock.sleep(0);
    }
  }

  /** Waits for writes under way and takes the places back. */
  async abandon(): Promise<void> {
    await Promise.allSettled(this.#writes);
    const { dirty } = this.#options.pool;
    for (const slot of this.#placed.slice(this.#settled)) dirty.state[slot] = slotStates.dirty;
  }

  /** Starts with a page that may need a place. */
  #enter(slot: number): void {
    const { pool } = this.#options;
    if (pool.dirty.state[slot] !== slotStates.dirty) return;
    if (pool.dirty.level[slot] === 0) {
      this.#place(slot, undefined);
      return;
    }
    const visit = this.#visits[this.#depth++];
    assert(visit !== undefined, 'a map has few levels');
    visit.slot = slot;
    visit.at = 0;
    pool.readDirty(slot, visit.page);
    // Children persisted earlier: the page may drop its references to their slots while this copy lives on.
    for (let at = 0; at < pageWords; at += entryWords) {
      if (visit.page[at + 1] !== dirtyWriter) continue;
      const child = pool.slotOf(visit.page, at);
      if (pool.dirty.state[child] === slotStates.persisted) {
        pool.pointAtPersisted(visit.page, at, child);
      }
    }
  }

  /** Goes on with the lowest page under way until it needs a child's place. */
  #step(): void {
    const { pool } = this.#options;
    const visit = this.#visits[this.#depth - 1];
    assert(visit !== undefined, 'a step has a page');
    const { page } = visit;
    while (visit.at < pageWords) {
      const { at } = visit;
      if (page[at + 1] === dirtyWriter) {
        const child = pool.slotOf(page, at);
        if (pool.dirty.state[child] === slotStates.dirty) {
          this.#enter(child);
          return;
        }
        pool.pointAtPersisted(page, at, child);
      }
      visit.at += entryWords;
    }
    this.#depth--;
    this.#place(visit.slot, page);
  }

  /** Puts a page (read from the pool when none is given) into an object of its birth. */
  #place(slot: number, page: Uint32Array | undefined): void {
    const { pool } = this.#options;
    const { dirty } = pool;
    const object = this.#objectFor(dirty.birth[slot] ?? 0);
    const index = object.pages.length;
    const into = this.#pageOf(object);
    if (page === undefined) pool.readDirty(slot, into);
    else into.set(page);
    object.pages.push(into);
    dirty.low[slot] = locationLow(object.objectId, index);
    dirty.writer[slot] = writerOf(object.objectId);
    dirty.check[slot] = clusterChecksum(bytesOf(into), object.objectId, index);
    dirty.state[slot] = slotStates.assigned;
    this.#placed.push(slot);
    this.#openPages++;
    if (object.pages.length === objectClustersMax) this.#close(object);
    else if (this.#openPages > openPagesMax) this.#closeFullest();
  }

  #objectFor(birth: number): OpenObject {
    let object = this.#open.get(birth);
    if (object === undefined) {
      const objectId = this.#options.writer.allocateObject(birth);
      object = { objectId, birth, pages: [], chunks: [] };
      this.#open.set(birth, object);
    }
    return object;
  }

  /** Memory for the object's next page. */
  #pageOf(object: OpenObject): Uint32Array {
    const n = object.pages.length;
    const offset = (n % pagesPerChunk) * clusterBytes;
    if (offset === 0) {
      object.chunks.push(this.#spare.pop() ?? new ArrayBuffer(pagesPerChunk * clusterBytes));
    }
    const chunk = object.chunks.at(-1);
    assert(chunk !== undefined, 'an object has memory');
    return new Uint32Array(chunk, offset, pageWords);
  }

  #close(object: OpenObject): void {
    this.#open.delete(object.birth);
    this.#openPages -= object.pages.length;
    this.#full.push(object);
  }

  #closeFullest(): void {
    let fullest: OpenObject | undefined;
    for (const object of this.#open.values()) {
      if (object.pages.length > (fullest?.pages.length ?? 0)) fullest = object;
    }
    if (fullest !== undefined) this.#close(fullest);
  }

  /** Starts storing the full objects, as writes under way end. */
  async #store(): Promise<void> {
    for (let object = this.#full.shift(); object !== undefined; object = this.#full.shift()) {
      while (this.#writes.size >= writesMax) await this.#oneWrite();
      const write = this.#write(object).finally(() => this.#writes.delete(write));
      this.#writes.add(write);
    }
    this.#throwFailure();
  }

  async #oneWrite(): Promise<void> {
    await Promise.race(this.#writes);
    this.#throwFailure();
  }

  /** Never rejects: the first failure is kept for whoever looks next. */
  async #write(object: OpenObject): Promise<void> {
    try {
      const pages = object.pages.map(bytesOf);
      await this.#options.writer.writeObject(object.objectId, object.birth, pages);
      this.#spare.push(...object.chunks);
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}
