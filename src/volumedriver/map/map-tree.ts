/**
 * The head of one map: copy-on-write updates of a radix tree. Operations are synchronous; one that needs a page which
 * is not resident changes nothing that a reader could see, names the page in `missing` and may be called again once it
 * is loaded.
 *
 * Invariants: a page may be changed only when this tree made it since its last freeze; such a page is referred to by
 * exactly one entry. Whatever leaves the head is reported once: clusters and persisted pages at once, whole subtrees by
 * the releaser that they are handed to, and a dirty page that a frozen map still holds by being marked, so that it is
 * reported if it is ever persisted.
 */
import { assert } from '../../base/assert.ts';
import { pageEntries } from '../format/constants.ts';
import { indexOf, locationLow, objectIdOf, writerOf } from '../format/location.ts';
import {
  emptyRoot,
  LeafFinder,
  leafMissing,
  missingAt,
  shareRoot,
  type MapRoot,
} from './map-root.ts';
import { stillCurrent } from './dirty-table.ts';
import type { PagePool } from './page-pool.ts';
import type { MissingPage } from './page-session.ts';
import { clustersAtLevel, dirtyWriter, entryWords, levelForSize } from './page.ts';

/** A cluster or a map page left the head in interval `since`. */
export type OnRelease = (objectId: number, index: number, since: number) => void;

/** Takes over an entry's reference to a subtree that left the head; called before the entry is cleared. */
export type CutSubtree = (words: Uint32Array, at: number, level: number, since: number) => void;

export interface MapTreeOptions {
  readonly pool: PagePool;
  readonly root: MapRoot;
  readonly sizeClusters: number;
  readonly interval: number;
  readonly onRelease: OnRelease;
  readonly onCut: CutSubtree;
}

/** Consecutive clusters of one object, one per checksum. */
export interface LocatedRun {
  readonly objectId: number;
  readonly index: number;
  readonly checksums: Uint32Array;
}

/** An entry that refers to a page of this level whose first cluster is `base`; `parent` is the entry's frame. */
interface Place {
  readonly words: Uint32Array;
  readonly at: number;
  readonly parent: number;
  readonly level: number;
  readonly base: number;
}

export class MapTree {
  readonly owner: number;
  interval: number;
  sizeClusters: number;
  /** Counts freezes. */
  stamp = 1;
  missing: MissingPage;
  readonly #pool: PagePool;
  readonly #finder: LeafFinder;
  readonly #onRelease: OnRelease;
  readonly #onCut: CutSubtree;
  #root: MapRoot;

  /** Takes over the root's reference. */
  constructor(options: MapTreeOptions) {
    this.#pool = options.pool;
    this.#root = options.root;
    this.#onRelease = options.onRelease;
    this.#onCut = options.onCut;
    this.#finder = new LeafFinder(options.pool);
    this.missing = this.#finder.missing;
    this.owner = options.pool.nextOwner();
    this.interval = options.interval;
    this.sizeClusters = options.sizeClusters;
  }

  get root(): MapRoot {
    return this.#root;
  }

  /**
   * Maps `count` clusters of one leaf, from `cluster` on, to what the run has from its cluster number `from` on. False
   * when a page is missing.
   */
  setInLeaf(cluster: number, count: number, run: LocatedRun, from: number): boolean {
    this.#pool.begin();
    this.#raise();
    const leaf = Math.floor(cluster / pageEntries);
    const frame = this.#mutableLeaf(leaf);
    if (frame < 0) return false;
    const page = this.#pool.words(frame);
    this.#pool.changed(frame);
    const { objectId, index, checksums } = run;
    const writer = writerOf(objectId);
    let low = locationLow(objectId, index + from);
    let at = (cluster - leaf * pageEntries) * entryWords;
    for (let n = from; n < from + count; n++) {
      const oldWriter = page[at + 1] ?? 0;
      const oldLow = page[at] ?? 0;
      // Replay may set what is set already: that location does not leave the head.
      if (oldWriter !== 0 && (oldWriter !== writer || oldLow !== low)) {
        this.#onRelease(objectIdOf(oldWriter, oldLow), indexOf(oldLow), this.interval);
      }
      page[at] = low;
      page[at + 1] = writer;
      page[at + 2] = checksums[n] ?? 0;
      low++;
      at += entryWords;
    }
    return true;
  }

  /** Makes holes of the clusters from `first` to before `end`. False when a page is missing. */
  clear(first: number, end: number): boolean {
    this.#pool.begin();
    const root = this.#root;
    const reach = clustersAtLevel(root.level);
    // Nothing is mapped beyond the size, so the last page counts as covered when all of it that exists is.
    const last = end >= this.sizeClusters ? reach : Math.min(end, reach);
    if (root.words[1] === 0 || first >= last) return true;
    if (first === 0 && last === reach) {
      this.#cut(root.words, 0, -1, root.level);
      return true;
    }
    const whole = { words: root.words, at: 0, parent: -1, level: root.level, base: 0 };
    return this.#clearIn(whole, first, last);
  }

  /** Pins the present tree: its pages are immutable from now on. */
  freeze(): MapRoot {
    this.#pool.begin();
    this.stamp++;
    assert(this.stamp < 2 ** 32, 'a tree is not frozen that often');
    return shareRoot(this.#pool, this.#root);
  }

  /** The head becomes `root` (whose reference is taken over); marks of intervals after `interval` are void. */
  reset(root: MapRoot, sizeClusters: number, interval: number): void {
    const { dirty } = this.#pool;
    this.#pool.begin();
    this.#pool.dropEntry(this.#root.words, 0);
    for (let slot = 0; slot < dirty.used; slot++) {
      if (dirty.owner[slot] === this.owner && (dirty.since[slot] ?? 0) > interval) {
        dirty.since[slot] = stillCurrent;
      }
    }
    this.stamp++;
    this.#root = root;
    this.sizeClusters = sizeClusters;
  }

  close(): void {
    this.#pool.dropEntry(this.#root.words, 0);
    this.#root = emptyRoot();
  }

  /** Adds root pages until the root covers the size. */
  #raise(): void {
    const root = this.#root;
    const level = levelForSize(this.sizeClusters);
    if (root.level >= level) return;
    if (root.words[1] === 0) root.level = level;
    while (root.level < level) {
      const slot = this.#pool.create(root.level + 1, this);
      const frame = this.#pool.dirty.frame[slot] ?? -1;
      this.#pool.words(frame).set(root.words);
      root.level++;
      this.#pool.pointAt(root.words, 0, -1, slot);
    }
  }

  /** The frame of a leaf that may be changed; absent pages on the way are made. -1 with `missing` set. */
  #mutableLeaf(leaf: number): number {
    let words = this.#root.words;
    let at = 0;
    let frame = -1;
    for (let level = this.#root.level; ;) {
      frame = this.#mutable(words, at, frame, level);
      if (frame < 0 || level === 0) return frame;
      level--;
      words = this.#pool.words(frame);
      at = ((leaf >>> (8 * level)) & 255) * entryWords;
    }
  }

  /** The frame of the page at an entry of a page that may be changed, made or copied as needed; -1 when missing. */
  #mutable(words: Uint32Array, at: number, parent: number, level: number): number {
    const pool = this.#pool;
    const { dirty } = pool;
    if (words[at + 1] === 0) {
      const made = pool.create(level, this);
      pool.pointAt(words, at, parent, made);
      return dirty.frame[made] ?? -1;
    }
    const frame = pool.find(words, at, parent);
    if (frame < 0) {
      this.missing = missingAt(words, at, level);
      return -1;
    }
    const low = words[at] ?? 0;
    const writer = words[at + 1] ?? 0;
    const isDirty = writer === dirtyWriter;
    if (isDirty && dirty.stamp[low] === this.stamp && dirty.owner[low] === this.owner) return frame;
    const copy = pool.copy(frame, level, this);
    const copyFrame = dirty.frame[copy] ?? -1;
    pool.pointAt(words, at, parent, copy);
    if (isDirty) {
      dirty.since[low] = this.interval;
      pool.unref(low);
    } else this.#onRelease(objectIdOf(writer, low), indexOf(low), this.interval);
    return copyFrame;
  }

  /**
   * Whether a page has anything mapped in [first, end); undefined when a page is missing. Looks only at pages on the
   * range's two edges.
   */
  #isMapped(place: Place, first: number, end: number): boolean | undefined {
    const { words, at, parent, level, base } = place;
    if (words[at + 1] === 0) return false;
    const frame = this.#pool.find(words, at, parent);
    if (frame < 0) {
      this.missing = missingAt(words, at, level);
      return undefined;
    }
    const page = this.#pool.words(frame);
    const span = clustersAtLevel(level) / pageEntries;
    for (let n = entryOf(first - base, span); n < pageEntries; n++) {
      const start = base + n * span;
      if (start >= end) break;
      const entry = n * entryWords;
      if (page[entry + 1] === 0) continue;
      if (start >= first && start + span <= end) return true;
      const child = { words: page, at: entry, parent: frame, level: level - 1, base: start };
      const found = this.#isMapped(child, first, end);
      if (found !== false) return found;
    }
    return false;
  }

  /** Clears [first, end) in a page that it covers in part. False when a page is missing. */
  #clearIn(place: Place, first: number, end: number): boolean {
    // Don't copy pages in which there is nothing to clear.
    const mapped = this.#isMapped(place, first, end);
    if (mapped !== true) return mapped === false;
    const { level, base } = place;
    const frame = this.#mutable(place.words, place.at, place.parent, level);
    if (frame < 0) return false;
    const page = this.#pool.words(frame);
    const span = clustersAtLevel(level) / pageEntries;
    for (let n = entryOf(first - base, span); n < pageEntries; n++) {
      const start = base + n * span;
      if (start >= end) break;
      const entry = n * entryWords;
      if (page[entry + 1] === 0) continue;
      if (start >= first && start + span <= end) {
        this.#cutEntry(page, entry, frame, level);
        continue;
      }
      const child = { words: page, at: entry, parent: frame, level: level - 1, base: start };
      if (!this.#clearIn(child, first, end)) return false;
    }
    return true;
  }

  /** Clears one entry of a page of this level: a cluster, or the subtree below. */
  #cutEntry(page: Uint32Array, at: number, frame: number, level: number): void {
    if (level > 0) {
      this.#cut(page, at, frame, level - 1);
      return;
    }
    const low = page[at] ?? 0;
    const writer = page[at + 1] ?? 0;
    page.fill(0, at, at + entryWords);
    this.#pool.changed(frame);
    this.#onRelease(objectIdOf(writer, low), indexOf(low), this.interval);
  }

  #cut(words: Uint32Array, at: number, parent: number, level: number): void {
    this.#pool.settleEntry(words, at, parent);
    this.#onCut(words, at, level, this.interval);
    words.fill(0, at, at + entryWords);
    if (parent >= 0) this.#pool.changed(parent);
  }

  /** The frame of a leaf, leafAbsent, or leafMissing with `missing` set. */
  findLeaf(leaf: number): number {
    this.#pool.begin();
    const frame = this.#finder.find(this.#root, leaf);
    if (frame === leafMissing) this.missing = this.#finder.missing;
    return frame;
  }
}

function entryOf(offset: number, span: number): number {
  return offset <= 0 ? 0 : Math.floor(offset / span);
}
