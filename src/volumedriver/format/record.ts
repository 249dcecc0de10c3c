/**
 * Records of a TLog, byte for byte as docs/formats.md has them. Each record's checksum is seeded with that of the
 * record before it, so that a record is valid only in its place: stale bytes behind a torn end never pass.
 *
 *   0 u32 length of the record, a multiple of 8      12 u32 count: clusters, or bytes of a control payload
 *   4 u32 checksum of bytes 8..length                16 u64 first cluster (sync: byte offset in the slot)
 *   8 u8 type, 9 u8 flags, 10 u16 zero               24 u32 location low, 28 u32 its writer (sync: u64 slot)
 *  32 payload: u32 checksum per cluster (write), UTF-8 JSON (control); padded with zeroes
 */
import { crc32 } from 'node:zlib';
import { assert } from '../../base/assert.ts';
import { indexOf, locationLow, objectIdOf, writerOf } from './location.ts';

export const recordHeaderBytes = 32;
/** A bound for readers: no writer makes a record larger than this. */
export const recordBytesMax = 4 * 2 ** 20;
/** The most clusters that one write record covers: a whole object. */
export const writeClustersMax = 4096;

export const recordTypes = { write: 1, range: 2, control: 3, sync: 4, end: 5 } as const;

export type LogRecord =
  | {
      type: 'write';
      cluster: number;
      objectId: number;
      index: number;
      /** One per cluster. */
      checksums: Uint32Array;
    }
  /** The clusters read as zeroes from here on. */
  | { type: 'range'; cluster: number; count: number }
  /** A change of the volume's state: JSON, checked by format/control.ts. */
  | { type: 'control'; payload: unknown }
  /** Everything up to byte `offset` of slot `slot` was durable on the local disk when this was written. */
  | { type: 'sync'; slot: number; offset: number }
  /** Closes a sealed TLog; `count` records precede it. */
  | { type: 'end'; count: number };

interface Fields {
  type: number;
  count: number;
  cluster: number;
  low: number;
  high: number;
  payload: Uint8Array | Uint32Array;
}

const noPayload = new Uint8Array(0);

export interface EncodedRecords {
  bytes: Buffer;
  /** Of the last one: the seed of the next. */
  checksum: number;
}

/**
 * Encodes records that follow each other, into memory of their own; `previous` is the checksum of the record before them
 * (the header's for the first).
 */
export function encodeRecords(records: readonly LogRecord[], previous: number): EncodedRecords {
  const all = records.map(fieldsOf);
  let total = 0;
  for (const { payload } of all) total += lengthOf(payload);
  const words = new Uint32Array(total / 4);
  const bytes = Buffer.from(words.buffer);
  let at = 0;
  let checksum = previous;
  for (const fields of all) {
    const length = encodeFields(fields, { words, bytes, at });
    checksum = crc32(bytes.subarray(at + 8, at + length), checksum);
    words[at / 4 + 1] = checksum;
    at += length;
  }
  return { bytes, checksum };
}

/** Encodes one record; `previous` is the checksum of the record before it (the header's for the first). */
export function encodeRecord(record: LogRecord, previous: number): Buffer {
  return encodeRecords([record], previous).bytes;
}

/** Writes all but the checksum into zeroes, and returns the record's length. */
function encodeFields(
  { type, count, cluster, low, high, payload }: Fields,
  { words, bytes, at }: { words: Uint32Array; bytes: Buffer; at: number },
): number {
  const length = lengthOf(payload);
  assert(length <= recordBytesMax, 'a record stays within its bound');
  const first = at / 4;
  words[first] = length;
  words[first + 2] = type;
  words[first + 3] = count;
  words[first + 4] = cluster % 2 ** 32;
  words[first + 5] = cluster / 2 ** 32;
  words[first + 6] = low;
  words[first + 7] = high;
  if (payload instanceof Uint32Array) words.set(payload, first + recordHeaderBytes / 4);
  else bytes.set(payload, at + recordHeaderBytes);
  return length;
}

function lengthOf(payload: Uint8Array | Uint32Array): number {
  return (recordHeaderBytes + payload.byteLength + 7) & ~7;
}

/** The checksum of an encoded record: the seed of the next one. */
export function checksumOf(encoded: Buffer): number {
  return encoded.readUInt32LE(4);
}

function fieldsOf(record: LogRecord): Fields {
  const empty = { count: 0, cluster: 0, low: 0, high: 0, payload: noPayload };
  switch (record.type) {
    case 'write':
      return {
        type: recordTypes.write,
        count: record.checksums.length,
        cluster: record.cluster,
        low: locationLow(record.objectId, record.index),
        high: writerOf(record.objectId),
        payload: record.checksums,
      };
    case 'range':
      return { ...empty, type: recordTypes.range, count: record.count, cluster: record.cluster };
    case 'control': {
      const payload = Buffer.from(JSON.stringify(record.payload), 'utf8');
      return { ...empty, type: recordTypes.control, count: payload.length, payload };
    }
    case 'sync': {
      const [low, high] = [record.slot % 2 ** 32, Math.floor(record.slot / 2 ** 32)];
      return { ...empty, type: recordTypes.sync, cluster: record.offset, low, high };
    }
    case 'end':
      return { ...empty, type: recordTypes.end, count: record.count };
  }
}

export interface DecodedRecord {
  record: LogRecord;
  /** Where the next record starts. */
  next: number;
  checksum: number;
}

/** Decodes the record at `offset`; undefined when no valid record stands there (end, torn or damaged). */
export function decodeRecord(
  log: Buffer,
  offset: number,
  previous: number,
): DecodedRecord | undefined {
  const length = framedLength(log, offset);
  if (length === undefined) return undefined;
  const checksum = log.readUInt32LE(offset + 4);
  if (crc32(log.subarray(offset + 8, offset + length), previous) !== checksum) return undefined;
  const record = recordOf(log.subarray(offset, offset + length));
  return record === undefined ? undefined : { record, next: offset + length, checksum };
}

/** The plausible length of a record at `offset`, whatever its checksum says. */
export function framedLength(log: Buffer, offset: number): number | undefined {
  if (offset + recordHeaderBytes > log.length) return undefined;
  const length = log.readUInt32LE(offset);
  if (length < recordHeaderBytes || length > recordBytesMax || length % 8 !== 0) return undefined;
  return offset + length > log.length ? undefined : length;
}

function recordOf(bytes: Buffer): LogRecord | undefined {
  const count = bytes.readUInt32LE(12);
  const cluster = bytes.readUInt32LE(16) + bytes.readUInt32LE(20) * 2 ** 32;
  switch (bytes.readUInt8(8)) {
    case recordTypes.write: {
      if (count < 1 || count > writeClustersMax) return undefined;
      if (recordHeaderBytes + 4 * count > bytes.length) return undefined;
      const low = bytes.readUInt32LE(24);
      return {
        type: 'write',
        cluster,
        objectId: objectIdOf(bytes.readUInt32LE(28), low),
        index: indexOf(low),
        checksums: wordsOf(bytes.subarray(recordHeaderBytes, recordHeaderBytes + 4 * count)),
      };
    }
    case recordTypes.range:
      return { type: 'range', cluster, count };
    case recordTypes.control:
      return controlOf(bytes, count);
    case recordTypes.sync: {
      const slot = bytes.readUInt32LE(24) + bytes.readUInt32LE(28) * 2 ** 32;
      return { type: 'sync', slot, offset: cluster };
    }
    case recordTypes.end:
      return { type: 'end', count };
    default:
      return undefined;
  }
}

function controlOf(bytes: Buffer, count: number): LogRecord | undefined {
  if (recordHeaderBytes + count > bytes.length) return undefined;
  try {
    const text = bytes.toString('utf8', recordHeaderBytes, recordHeaderBytes + count);
    return { type: 'control', payload: JSON.parse(text) as unknown };
  } catch {
    return undefined; // not JSON: as invalid as a wrong checksum
  }
}

function wordsOf(bytes: Buffer): Uint32Array {
  const words = new Uint32Array(bytes.length / 4);
  new Uint8Array(words.buffer).set(bytes);
  return words;
}
