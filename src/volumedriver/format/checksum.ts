/**
 * Checksums of clusters and map pages: zlib's CRC-32 (RFC 1952 section 8), started with the CRC of the place where
 * the cluster is stored, so that intact data read from the wrong place fails as well.
 */
import { crc32 } from 'node:zlib';
import { locationLow, writerOf } from './location.ts';

const table = new Uint32Array(256);
for (let n = 0; n < 256; n++) {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  table[n] = value >>> 0;
}

/** CRC-32 of the location's eight little-endian bytes, in JavaScript: a native call costs more than eight look-ups. */
export function locationSeed(objectId: number, index: number): number {
  return (
    crcOfWord(crcOfWord(0xffffffff, locationLow(objectId, index)), writerOf(objectId)) ^ 0xffffffff
  );
}

function crcOfWord(state: number, word: number): number {
  let crc = state ^ word;
  for (let byte = 0; byte < 4; byte++) crc = (crc >>> 8) ^ (table[crc & 0xff] ?? 0);
  return crc;
}

/** The checksum, a u32, of one cluster or map page stored at (objectId, index). */
export function clusterChecksum(data: Uint8Array, objectId: number, index: number): number {
  return crc32(data, locationSeed(objectId, index) >>> 0);
}
