/**
 * The memory of all maps of an engine thread: a fixed number of 4 KiB frames, shared by clean pages (cached by where
 * they are stored, and so shared by a head, its snapshots and clones) and dirty pages (known by a slot of the dirty
 * table). The clock algorithm evicts: a clean page is dropped, a dirty one goes to the spill file and comes back
 * from it synchronously.
 *
 * Invariants: a frame that the current operation has touched (begin() starts the next), that is pinned or that is
 * being loaded is not evicted. An entry with a dirty reference lies in a dirty page, a root or a walk, never in a
 * clean page.
 */
import { assert } from '../../base/assert.ts';
import type { DiskFile } from '../disk/disk.ts';
import { clusterBytes } from '../format/constants.ts';
import { CleanIndex } from './clean-index.ts';
import { DirtyTable, slotStates, stillCurrent } from './dirty-table.ts';
import type { SharedLoad } from './page-session.ts';
import { dirtyWriter, entryWords, pageWords } from './page.ts';
import { SpillFile } from './spill-file.ts';
import { Turnstile } from './turnstile.ts';

export interface PagePoolOptions {
  /** Bytes of page frames (`--map-memory`); at least 64 frames are used. */
  readonly memoryBytes: number;
  /** Creates the spill file, when the first dirty page must leave memory. */
  readonly openSpill: () => DiskFile;
  /** Told when a page that is given up can't be read back, so that bookkeeping of its children leaks until restart. */
  readonly onLeak?: (error: unknown) => void;
}

export const framesMin = 64;
const framesPerChunk = 256;
/** Sessions hold a few pinned frames each: all together must leave most frames to the clock. */
const framesPerSession = 64;
const sessionsMax = 256;

const frameKinds = { free: 0, clean: 1, dirty: 2, loading: 3 } as const;

/** Who makes a page, as far as the dirty table wants to know it. */
export interface PageMaker {
  readonly owner: number;
  readonly stamp: number;
  readonly interval: number;
}

export class PagePool {
  readonly dirty = new DirtyTable();
  readonly framesMax: number;
  /** Entered by whoever waits for pages in order to apply operations (long), or to read (short). */
  readonly applying: Turnstile;
  readonly reading: Turnstile;
  /** Loads under way, by location. */
  readonly loads = new Map<string, SharedLoad>();
  readonly #spill: SpillFile;
  readonly #onLeak: (error: unknown) => void;
  readonly #pages: Uint32Array[] = [];
  readonly #free: number[] = [];
  readonly #kind: Uint8Array;
  readonly #pins: Uint16Array;
  /** The operation that used the frame last; 0 when the clock's hand has passed since. */
  readonly #touched: Uint32Array;
  /** Of a dirty page. */
  readonly #slot: Int32Array;
  /** Of a clean page: its location and checksum. */
  readonly #low: Uint32Array;
  readonly #writer: Uint32Array;
  readonly #check: Uint32Array;
  readonly #clean: CleanIndex;
  readonly #scratch = new Uint32Array(pageWords);
  #operation = 1;
  #hand = 0;
  #owners = 0;

  constructor(options: PagePoolOptions) {
    const frames = Math.max(framesMin, Math.floor(options.memoryBytes / clusterBytes));
    this.framesMax = frames;
    this.#spill = new SpillFile(options.openSpill);
    this.#onLeak = options.onLeak ?? ((): void => undefined);
    this.#kind = new Uint8Array(frames);
    this.#pins = new Uint16Array(frames);
    this.#touched = new Uint32Array(frames);
    this.#slot = new Int32Array(frames);
    this.#low = new Uint32Array(frames);
    this.#writer = new Uint32Array(frames);
    this.#check = new Uint32Array(frames);
    this.#clean = new CleanIndex(this.#low, this.#writer);
    const sessions = Math.min(sessionsMax, Math.floor(frames / framesPerSession));
    this.applying = new Turnstile(sessions);
    this.reading = new Turnstile(sessions);
  }

  /** Closes the spill file. No map may use the pool any more. */
  close(): void {
    this.#spill.close();
  }

  /** A number for a new tree. */
  nextOwner(): number {
    return ++this.#owners;
  }

  /** Starts an operation: frames used from now on stay until the next one starts. */
  begin(): void {
    this.#operation = this.#operation === 0xffffffff ? 1 : this.#operation + 1;
  }

  words(frame: number): Uint32Array {
    const page = this.#pages[frame];
    assert(page !== undefined, 'a frame has memory');
    return page;
  }

  /**
   * The frame of the page that the entry at words[at] refers to; -1 when it must be loaded from a map object. `parent`
   * is the frame that holds the entry, -1 for a root. Rewrites a reference to a page persisted meanwhile.
   * Throws CORRUPT when the spill file is damaged, or what writing to it throws.
   */
  find(words: Uint32Array, at: number, parent: number): number {
    if (words[at + 1] === dirtyWriter) {
      const slot = this.slotOf(words, at);
      if (this.dirty.state[slot] !== slotStates.persisted) {
        let frame = this.dirty.frame[slot] ?? -1;
        if (frame < 0) frame = this.#unspill(slot);
        this.#touched[frame] = this.#operation;
        return frame;
      }
      this.settleEntry(words, at, parent);
    }
    const frame = this.#clean.get(words[at] ?? 0, words[at + 1] ?? 0);
    if (frame < 0 || this.#check[frame] !== words[at + 2]) return -1;
    this.#touched[frame] = this.#operation;
    return frame;
  }

  /** The slot that a dirty reference names. */
  slotOf(words: Uint32Array, at: number): number {
    const slot = words[at] ?? 0;
    assert(
      this.dirty.nonce[slot] === words[at + 2] && this.dirty.state[slot] !== slotStates.free,
      'a reference to a dirty page is counted',
    );
    return slot;
  }

  /** Makes a dirty reference to a persisted page a persisted one. */
  settleEntry(words: Uint32Array, at: number, parent: number): void {
    if (words[at + 1] !== dirtyWriter) return;
    const slot = this.slotOf(words, at);
    if (this.dirty.state[slot] !== slotStates.persisted) return;
    this.pointAtPersisted(words, at, slot);
    if (parent >= 0) this.changed(parent);
    this.unref(slot);
  }

  /** Writes where a slot's page is (or will be) stored into an entry, without counting. */
  pointAtPersisted(words: Uint32Array, at: number, slot: number): void {
    words[at] = this.dirty.low[slot] ?? 0;
    words[at + 1] = this.dirty.writer[slot] ?? 0;
    words[at + 2] = this.dirty.check[slot] ?? 0;
  }

  /** Lets the entry refer to a dirty page; the reference must already be counted. */
  pointAt(words: Uint32Array, at: number, parent: number, slot: number): void {
    words[at] = slot;
    words[at + 1] = dirtyWriter;
    words[at + 2] = this.dirty.nonce[slot] ?? 0;
    if (parent >= 0) this.changed(parent);
  }

  /** Copies an entry, which has been settled, and counts the new reference. */
  copyEntry(from: Uint32Array, fromAt: number, to: Uint32Array, toAt: number): void {
    for (let word = 0; word < entryWords; word++) to[toAt + word] = from[fromAt + word] ?? 0;
    this.retainEntry(to, toAt);
  }

  retainEntry(words: Uint32Array, at: number): void {
    if (words[at + 1] === dirtyWriter) this.retain(this.slotOf(words, at));
  }

  retain(slot: number): void {
    this.dirty.refs[slot] = (this.dirty.refs[slot] ?? 0) + 1;
  }

  /** Makes the entry a hole and lets go of what it referred to. */
  dropEntry(words: Uint32Array, at: number): void {
    const slot = words[at + 1] === dirtyWriter ? this.slotOf(words, at) : -1;
    words.fill(0, at, at + entryWords);
    if (slot >= 0) this.unref(slot);
  }

  /** The page in a dirty frame was changed: its copy in the spill file is out of date. */
  changed(frame: number): void {
    this.dirty.spilled[this.#slot[frame] ?? 0] = 0;
  }

  /** A new empty page with one reference, in memory. */
  create(level: number, maker: PageMaker): number {
    const frame = this.#allocate();
    this.words(frame).fill(0);
    return this.#makeDirty(frame, level, maker);
  }

  /** A copy, with one reference, of the page in `from`; its dirty children gain a reference each. */
  copy(from: number, level: number, maker: PageMaker): number {
    const frame = this.#allocate();
    const page = this.words(frame);
    page.set(this.words(from));
    if (level > 0) {
      for (let at = 0; at < pageWords; at += entryWords) {
        if (page[at + 1] !== dirtyWriter) continue;
        const child = this.slotOf(page, at);
        if (this.dirty.state[child] === slotStates.persisted) {
          this.pointAtPersisted(page, at, child);
        } else this.retain(child);
      }
    }
    return this.#makeDirty(frame, level, maker);
  }

  /** Drops one reference; a dirty page without any is given up, and its children lose a reference each. */
  unref(slot: number): void {
    const refs = this.dirty.refs[slot] ?? 0;
    assert(refs > 0, 'a reference is dropped once');
    this.dirty.refs[slot] = refs - 1;
    if (refs > 1) return;
    const given = [slot];
    for (let next = given.pop(); next !== undefined; next = given.pop()) this.#giveUp(next, given);
    if (this.dirty.count === 0) this.#spill.clear();
  }

  /** Copies a dirty page that may lie in the spill file, without taking a frame. Throws CORRUPT. */
  readDirty(slot: number, into: Uint32Array): void {
    const frame = this.dirty.frame[slot] ?? -1;
    if (frame >= 0) into.set(this.words(frame));
    else this.#readSpill(slot, into);
  }

  /**
   * The page of an assigned slot has been stored: from now on it is a clean page there. Its dirty children must have
   * been settled before.
   */
  settle(slot: number): void {
    const { dirty } = this;
    assert(
      dirty.state[slot] === slotStates.assigned,
      'a page is given a place before it is settled',
    );
    if ((dirty.level[slot] ?? 0) > 0) this.#settleChildren(slot);
    const frame = dirty.frame[slot] ?? -1;
    dirty.state[slot] = slotStates.persisted;
    dirty.frame[slot] = -1;
    if (frame < 0) return;
    this.#low[frame] = dirty.low[slot] ?? 0;
    this.#writer[frame] = dirty.writer[slot] ?? 0;
    this.#check[frame] = dirty.check[slot] ?? 0;
    assert(this.#clean.get(dirty.low[slot] ?? 0, dirty.writer[slot] ?? 0) < 0, 'a page is new');
    this.#kind[frame] = frameKinds.clean;
    this.#clean.add(frame);
  }

  #settleChildren(slot: number): void {
    const frame = this.dirty.frame[slot] ?? -1;
    const page = frame >= 0 ? this.words(frame) : this.#readLast(slot);
    for (let at = 0; page !== undefined && at < pageWords; at += entryWords) {
      if (page[at + 1] !== dirtyWriter) continue;
      const child = this.slotOf(page, at);
      assert(this.dirty.state[child] === slotStates.persisted, 'children are settled first');
      this.pointAtPersisted(page, at, child);
      this.unref(child);
    }
  }

  /** The frame of the clean page at a location; -1 when it is not here. */
  findClean(low: number, writer: number): number {
    return this.#clean.get(low, writer);
  }

  checkOf(frame: number): number {
    return this.#check[frame] ?? 0;
  }

  pin(frame: number): void {
    this.#pins[frame] = (this.#pins[frame] ?? 0) + 1;
    this.#touched[frame] = this.#operation;
  }

  unpin(frame: number): void {
    const pins = this.#pins[frame] ?? 0;
    assert(pins > 0, 'a frame is unpinned once for each pin');
    this.#pins[frame] = pins - 1;
  }

  /** A frame to load a page into; to be given to loaded() or abandoned(). */
  frameForLoad(): number {
    const frame = this.#allocate();
    this.#kind[frame] = frameKinds.loading;
    return frame;
  }

  loaded(frame: number, low: number, writer: number, check: number): void {
    this.#low[frame] = low;
    this.#writer[frame] = writer;
    this.#check[frame] = check;
    this.#kind[frame] = frameKinds.clean;
    this.#touched[frame] = this.#operation;
    this.#clean.add(frame);
  }

  abandoned(frame: number): void {
    this.#kind[frame] = frameKinds.free;
    this.#free.push(frame);
  }

  #makeDirty(frame: number, level: number, maker: PageMaker): number {
    const { dirty } = this;
    const slot = dirty.allocate();
    dirty.frame[slot] = frame;
    dirty.level[slot] = level;
    dirty.owner[slot] = maker.owner;
    dirty.stamp[slot] = maker.stamp;
    dirty.birth[slot] = maker.interval;
    this.#kind[frame] = frameKinds.dirty;
    this.#slot[frame] = slot;
    return slot;
  }

  /** Frees a slot without references; adds children that lost their last one to `given`. */
  #giveUp(slot: number, given: number[]): void {
    const { dirty } = this;
    assert(dirty.state[slot] !== slotStates.assigned, 'a page being written is referred to');
    if (dirty.state[slot] === slotStates.dirty) {
      const frame = dirty.frame[slot] ?? -1;
      if ((dirty.level[slot] ?? 0) > 0) {
        const page = frame >= 0 ? this.words(frame) : this.#readLast(slot);
        for (let at = 0; page !== undefined && at < pageWords; at += entryWords) {
          if (page[at + 1] !== dirtyWriter) continue;
          const child = this.slotOf(page, at);
          const refs = (dirty.refs[child] ?? 0) - 1;
          dirty.refs[child] = refs;
          if (refs === 0) given.push(child);
        }
      }
      if (frame >= 0) this.abandoned(frame);
    }
    dirty.since[slot] = stillCurrent;
    dirty.free(slot);
  }

  /** An inner page's last look at its children. When it can't be read they leak, which is reported, not thrown. */
  #readLast(slot: number): Uint32Array | undefined {
    try {
      this.#readSpill(slot, this.#scratch);
      return this.#scratch;
    } catch (error) {
      this.#onLeak(error);
      return undefined;
    }
  }

  #readSpill(slot: number, into: Uint32Array): void {
    const { dirty } = this;
    assert(dirty.spilled[slot] === 1, 'a page without a frame is in the spill file');
    this.#spill.read(slot, bytesOf(into), dirty.nonce[slot] ?? 0, dirty.spillCheck[slot] ?? 0);
  }

  #unspill(slot: number): number {
    const frame = this.#allocate();
    try {
      this.#readSpill(slot, this.words(frame));
    } catch (error) {
      this.abandoned(frame);
      throw error;
    }
    this.#kind[frame] = frameKinds.dirty;
    this.#slot[frame] = slot;
    this.dirty.frame[slot] = frame;
    return frame;
  }

  /** A free frame, touched by this operation. Throws what the spill file throws when a dirty page can't leave. */
  #allocate(): number {
    let frame = this.#free.pop();
    if (frame === undefined && this.#pages.length < this.framesMax) {
      this.#addChunk();
      frame = this.#free.pop();
    }
    frame ??= this.#evict();
    this.#touched[frame] = this.#operation;
    return frame;
  }

  #addChunk(): void {
    const first = this.#pages.length;
    const frames = Math.min(framesPerChunk, this.framesMax - first);
    const buffer = new ArrayBuffer(frames * clusterBytes);
    for (let n = 0; n < frames; n++) {
      this.#pages.push(new Uint32Array(buffer, n * clusterBytes, pageWords));
    }
    for (let frame = first + frames - 1; frame >= first; frame--) this.#free.push(frame);
  }

  /**
   * The clock. Two rounds pass every touched frame once; after a third, all are in use, which is our mistake, or dirty
   * pages can't be spilled, which is then thrown: as long as there are clean pages to drop, a full disk hurts nobody.
   */
  #evict(): number {
    let failure: { error: unknown } | undefined;
    for (let tries = this.framesMax * 3; tries > 0; tries--) {
      const frame = this.#hand;
      this.#hand = frame + 1 === this.framesMax ? 0 : frame + 1;
      if (!this.#isEvictable(frame)) continue;
      if (this.#kind[frame] === frameKinds.clean) this.#clean.delete(frame);
      else if (failure === undefined) failure = this.#spillPage(frame);
      if (failure !== undefined && this.#kind[frame] === frameKinds.dirty) continue;
      this.#kind[frame] = frameKinds.free;
      return frame;
    }
    assert(failure !== undefined, 'operations leave frames to evict');
    throw failure.error;
  }

  /** Takes the mark of its last use off a frame that the hand passes. */
  #isEvictable(frame: number): boolean {
    if (this.#kind[frame] === frameKinds.loading || (this.#pins[frame] ?? 0) > 0) return false;
    const touched = this.#touched[frame] ?? 0;
    if (touched === 0) return true;
    if (touched !== this.#operation) this.#touched[frame] = 0;
    return false;
  }

  /** What went wrong, if it did: then the page stays. */
  #spillPage(frame: number): { error: unknown } | undefined {
    const { dirty } = this;
    const slot = this.#slot[frame] ?? 0;
    if (dirty.spilled[slot] !== 1) {
      const nonce = dirty.nonce[slot] ?? 0;
      try {
        dirty.spillCheck[slot] = this.#spill.write(slot, bytesOf(this.words(frame)), nonce);
      } catch (error) {
        return { error };
      }
      dirty.spilled[slot] = 1;
    }
    dirty.frame[slot] = -1;
    return undefined;
  }
}

export function bytesOf(page: Uint32Array): Uint8Array {
  return new Uint8Array(page.buffer, page.byteOffset, page.byteLength);
}
