/**
 * The shape of a map page and of references to pages (docs/formats.md). A page is 256 entries of four u32 words,
 * little-endian: location low, writer, checksum, spare (0). In a leaf (level 0) an entry is a cluster; in an inner page
 * it is a child page. An entry whose writer is 0 is a hole or an absent child.
 *
 * In memory only, an inner entry may refer to a page that no map object holds yet: its writer is `dirtyWriter`, its
 * low word a slot of the pool's dirty table and its checksum word that slot's nonce. Such an entry is never written
 * to the backend, and one that comes from there is damage.
 */
import { assert } from '../../base/assert.ts';
import { clusterBytes, pageEntries, volumeBytesMax } from '../format/constants.ts';

export const entryWords = 4;
export const pageWords = pageEntries * entryWords;
/** No writer of the backend may have this id. */
export const dirtyWriter = 0xffffffff;
export const pageLevelMax = 4;

/** The root of a map that is wholly in map objects. Plain data: goes into checkpoint and snapshot records. */
export interface PersistedRoot {
  readonly objectId: number;
  readonly index: number;
  readonly checksum: number;
  /** 0: the root is a leaf. */
  readonly level: number;
}

/** Fetches persisted pages. One page's loads are shared by the pool, which also verifies the page. */
export interface PageSource {
  /**
   * Fills `into` (4 KiB) with the page at (objectId, index). True when it was filled before returning. Rejects with a
   * VolumeError: CORRUPT is final, anything else may be tried again.
   */
  read(objectId: number, index: number, into: Uint8Array): true | Promise<void>;
}

// The words of a page are used in place, so the machine must be little-endian as the format is.
assert(
  new Uint8Array(new Uint32Array([1]).buffer)[0] === 1,
  'only little-endian machines are supported',
);
assert(
  levelForSize(volumeBytesMax / clusterBytes) === pageLevelMax,
  'the largest volume has five levels',
);

/** The least level of a root page that covers `sizeClusters` clusters. */
export function levelForSize(sizeClusters: number): number {
  let level = 0;
  while (clustersAtLevel(level) < sizeClusters) level++;
  return level;
}

/** How many clusters a page of this level covers. */
export function clustersAtLevel(level: number): number {
  return pageEntries ** (level + 1);
}
