/**
 * A root of a map: one entry that refers to the root page (a hole for an empty map) and that page's level. The holder
 * owns one reference when the page is dirty.
 */
import { VolumeError } from '../../volumes/errors.ts';
import { clusterIndexBits, objectClustersMax, pageEntries } from '../format/constants.ts';
import { indexOf, locationLow, objectIdOf, writerOf } from '../format/location.ts';
import type { PagePool } from './page-pool.ts';
import type { MissingPage } from './page-session.ts';
import { dirtyWriter, entryWords, pageLevelMax, type PersistedRoot } from './page.ts';

export interface MapRoot {
  readonly words: Uint32Array;
  level: number;
}

/** What findLeaf gives when it gives no frame. */
export const leafAbsent = -1;
export const leafMissing = -2;

const objectIdEnd = dirtyWriter * 2 ** (32 - clusterIndexBits);

export function emptyRoot(): MapRoot {
  return { words: new Uint32Array(entryWords), level: 0 };
}

/** Throws CORRUPT when the numbers can't be those of a root: they come from a stored record. */
export function decodeRoot(root: PersistedRoot | null): MapRoot {
  if (root === null) return emptyRoot();
  const { objectId, index, checksum, level } = root;
  const valid =
    isWithin(objectId, objectIdEnd) &&
    writerOf(objectId) > 0 &&
    isWithin(index, objectClustersMax) &&
    isWithin(checksum, 2 ** 32) &&
    isWithin(level, pageLevelMax + 1);
  if (!valid) {
    throw new VolumeError('CORRUPT', `reading a map root: ${JSON.stringify(root)} is not one`);
  }
  const words = new Uint32Array([locationLow(objectId, index), writerOf(objectId), checksum, 0]);
  return { words, level };
}

/** Null for an empty map. The root page must be persisted. */
export function encodeRoot(root: MapRoot): PersistedRoot | null {
  const [low = 0, writer = 0, checksum = 0] = root.words;
  if (writer === 0) return null;
  return { objectId: objectIdOf(writer, low), index: indexOf(low), checksum, level: root.level };
}

/** Another holder of the same root. */
export function shareRoot(pool: PagePool, root: MapRoot): MapRoot {
  const shared = { words: new Uint32Array(entryWords), level: root.level };
  pool.settleEntry(root.words, 0, -1);
  pool.copyEntry(root.words, 0, shared.words, 0);
  return shared;
}

export function missingAt(words: Uint32Array, at: number, level: number): MissingPage {
  return {
    low: words[at] ?? 0,
    writer: words[at + 1] ?? 0,
    check: words[at + 2] ?? 0,
    level,
  };
}

/** The way from a root to its leaves. Keeps the last missing page instead of allocating an answer each time. */
export class LeafFinder {
  readonly #pool: PagePool;
  missing: MissingPage = { low: 0, writer: 0, check: 0, level: 0 };

  constructor(pool: PagePool) {
    this.#pool = pool;
  }

  /** The frame of leaf number `leaf` (clusters leaf × 256 onwards), leafAbsent, or leafMissing with `missing` set. */
  find(root: MapRoot, leaf: number): number {
    const pool = this.#pool;
    let level = root.level;
    if (leaf >= pageEntries ** level) return leafAbsent;
    let words = root.words;
    let at = 0;
    let parent = -1;
    for (;;) {
      if (words[at + 1] === 0) return leafAbsent;
      const frame = pool.find(words, at, parent);
      if (frame < 0) {
        this.missing = missingAt(words, at, level);
        return leafMissing;
      }
      if (level === 0) return frame;
      level--;
      words = pool.words(frame);
      at = ((leaf >>> (8 * level)) & 255) * entryWords;
      parent = frame;
    }
  }
}

function isWithin(value: number, end: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value < end;
}
