/**
 * The fixed numbers of the on-disk formats (docs/formats.md). They can't be configured: changing one makes a new
 * format version. All integers on disk are little-endian.
 */
import { assert } from '../../base/assert.ts';

/** The mapping unit, in bytes. */
export const clusterBytes = 4096;
/** Bits of a location that number the cluster within its object. */
export const clusterIndexBits = 12;
/** The most clusters that one object (SCO or map object) can hold: 16 MiB of data. */
export const objectClustersMax = 1 << clusterIndexBits;
/** Bits of a location that number the object within its writer. */
export const objectCounterBits = 20;
export const objectCounterMax = (1 << objectCounterBits) - 1;
/** Entries of a map page, in leaves (clusters) and inner pages (pointers) alike. */
export const pageEntries = 256;
export const pageEntryBytes = 16;
/** What a map of five levels holds. */
export { volumeBytesMax } from '../../volumes/volume.ts';

assert(pageEntries * pageEntryBytes === clusterBytes, 'a map page fills one cluster');
