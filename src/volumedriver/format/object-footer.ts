/**
 * The end of an object (an SCO, or an object of map pages). The clusters come first, cluster i at byte i × 4096, so
 * that an open SCO is nothing but its clusters; sealing appends a table of 32 bytes per cluster and a footer of 64.
 *
 *   table record: 0 u16 index, 2 u16 flags, 4 u32 checksum, 8 u64 cluster of the volume, 16 16-byte tag (encryption)
 *   footer: 0 magic, 8 u32 version, 12 u32 features, 16 u32 writer, 20 u32 counter, 24 u32 kind, 28 u32 clusters,
 *          32 u32 key id, 36 u32 rewrites, 40 u32 table checksum, 60 u32 footer checksum
 *
 * `rewrites` counts the versions of an object: a compaction leaves out dead clusters, the table's index then says
 * which remain. Only version 0, which has every cluster, is written so far.
 */
import { crc32 } from 'node:zlib';
import { VolumeError } from '../../volumes/errors.ts';
import { clusterBytes } from './constants.ts';
import { counterOf, formatObjectId, writerOf } from './location.ts';

export const objectKinds = { data: 1, map: 2 } as const;
export type ObjectKind = keyof typeof objectKinds;

const tableRecordBytes = 32;
export const objectFooterBytes = 64;
const magic = Buffer.from('VDOBJ001', 'latin1');
const formatVersion = 1;
const checksumOffset = 60;

export interface ObjectTable {
  kind: ObjectKind;
  /** One per cluster. */
  checksums: Uint32Array;
  /** The volume's cluster that was written there; for a map page the first cluster that it covers. */
  clusters: Float64Array;
}

/** Table and footer, to be appended behind the clusters. */
export function encodeObjectTail(objectId: number, table: ObjectTable): Buffer {
  const count = table.checksums.length;
  const bytes = Buffer.alloc(count * tableRecordBytes + objectFooterBytes);
  for (let i = 0; i < count; i++) {
    const at = i * tableRecordBytes;
    const cluster = table.clusters[i] ?? 0;
    bytes.writeUInt16LE(i, at);
    bytes.writeUInt32LE(table.checksums[i] ?? 0, at + 4);
    bytes.writeUInt32LE(cluster % 2 ** 32, at + 8);
    bytes.writeUInt32LE(Math.floor(cluster / 2 ** 32), at + 12);
  }
  const footer = bytes.subarray(count * tableRecordBytes);
  magic.copy(footer, 0);
  footer.writeUInt32LE(formatVersion, 8);
  footer.writeUInt32LE(writerOf(objectId), 16);
  footer.writeUInt32LE(counterOf(objectId), 20);
  footer.writeUInt32LE(objectKinds[table.kind], 24);
  footer.writeUInt32LE(count, 28);
  footer.writeUInt32LE(crc32(bytes.subarray(0, count * tableRecordBytes)), 40);
  footer.writeUInt32LE(crc32(footer.subarray(0, checksumOffset)), checksumOffset);
  return bytes;
}

/** Bytes of a sealed object with that many clusters. */
export function objectBytes(clusters: number): number {
  return clusters * (clusterBytes + tableRecordBytes) + objectFooterBytes;
}

/** Decodes the whole tail of a sealed object of `sizeBytes`; CORRUPT when it is damaged or another object's. */
export function decodeObjectTail(object: Buffer, objectId: number): ObjectTable {
  const fail = (why: string): never => {
    throw new VolumeError('CORRUPT', `reading object ${formatObjectId(objectId)}: ${why}`);
  };
  if (object.length < objectFooterBytes) fail('it is shorter than a footer');
  const footer = object.subarray(object.length - objectFooterBytes);
  const sum = footer.readUInt32LE(checksumOffset);
  if (!footer.subarray(0, 8).equals(magic)) fail('it has no footer');
  if (crc32(footer.subarray(0, checksumOffset)) !== sum)
    fail('the checksum of its footer is wrong');
  if (!isOfThisVersion(footer)) fail('its format version is unknown');
  const kind = footer.readUInt32LE(24) === objectKinds.map ? 'map' : 'data';
  if (objectKinds[kind] !== footer.readUInt32LE(24)) fail('its kind is unknown');
  if (!isOf(footer, objectId)) fail('it is another object');
  const count = footer.readUInt32LE(28);
  if (object.length !== objectBytes(count)) fail(`its length does not fit ${count} clusters`);
  const tableBytes = object.subarray(count * clusterBytes, object.length - objectFooterBytes);
  if (crc32(tableBytes) !== footer.readUInt32LE(40)) fail('the checksum of its table is wrong');
  const table: ObjectTable = {
    kind,
    checksums: new Uint32Array(count),
    clusters: new Float64Array(count),
  };
  for (let i = 0; i < count; i++) {
    const at = i * tableRecordBytes;
    table.checksums[i] = tableBytes.readUInt32LE(at + 4);
    table.clusters[i] =
      tableBytes.readUInt32LE(at + 8) + tableBytes.readUInt32LE(at + 12) * 2 ** 32;
  }
  return table;
}

/** Neither features, nor encryption (a key id), nor compaction (rewrites) can be read by this version. */
function isOfThisVersion(footer: Buffer): boolean {
  if (footer.readUInt32LE(8) !== formatVersion) return false;
  return [12, 32, 36].every((offset) => footer.readUInt32LE(offset) === 0);
}

function isOf(footer: Buffer, objectId: number): boolean {
  if (footer.readUInt32LE(16) !== writerOf(objectId)) return false;
  return footer.readUInt32LE(20) === counterOf(objectId);
}
