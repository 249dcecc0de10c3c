/** Records of a TLog: their bytes, and that no damage passes for one. */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { flips, hex, truncations } from '../../../test/support/damage.ts';
import { makeObjectId } from './location.ts';
import {
  checksumOf,
  decodeRecord,
  encodeRecord,
  framedLength,
  recordBytesMax,
  writeClustersMax,
  type LogRecord,
} from './record.ts';

const seed = 0x12345678;

// Written by hand after docs/formats.md: a change of these bytes is a new format version.
const golden: { name: string; record: LogRecord; bytes: Buffer }[] = [
  {
    name: 'write',
    record: {
      type: 'write',
      cluster: 0x1_0000_0007,
      objectId: makeObjectId(9, 0xabcde),
      index: 0x123,
      checksums: Uint32Array.of(0x11111111, 0x22222222, 0xdeadbeef),
    },
    bytes: hex(`30000000 3079bd33 01 00 0000 03000000 0700000001000000 23e1cdab 09000000
      11111111 22222222 efbeadde 00000000`),
  },
  {
    name: 'range',
    record: { type: 'range', cluster: 0x2_0000_0000, count: 0x0100_0000 },
    bytes: hex('20000000 aaa1905f 02 00 0000 00000001 0000000002000000 00000000 00000000'),
  },
  {
    name: 'control',
    record: { type: 'control', payload: { kind: 'removed' } },
    bytes: hex(`38000000 aabd402e 03 00 0000 12000000 0000000000000000 00000000 00000000
      7b226b696e64223a2272656d6f766564227d 000000000000`),
  },
  {
    name: 'sync',
    record: { type: 'sync', slot: 0x11_2233_4455, offset: 0x1234 },
    bytes: hex('20000000 c9143531 04 00 0000 00000000 3412000000000000 55443322 11000000'),
  },
  {
    name: 'end',
    record: { type: 'end', count: 42 },
    bytes: hex('20000000 3433fc48 05 00 0000 2a000000 0000000000000000 00000000 00000000'),
  },
];

describe.each(golden)('a $name record', ({ record, bytes }) => {
  test('has the bytes of the format', () => {
    expect(encodeRecord(record, seed).toString('hex')).toBe(bytes.toString('hex'));
    expect(checksumOf(bytes)).toBe(bytes.readUInt32LE(4));
  });

  test('is read back, wherever it stands', () => {
    const log = Buffer.concat([Buffer.alloc(24, 0xee), bytes, Buffer.alloc(8, 0xee)]);
    const next = 24 + bytes.length;
    const expected = { record, next, checksum: checksumOf(bytes) };
    expect(decodeRecord(log, 24, seed)).toEqual(expected);
  });

  test('is refused with any byte changed', () => {
    for (const damage of flips(bytes)) {
      const decoded = decodeRecord(damage.bytes, 0, seed);
      expect({ damage: damage.what, decoded }).toEqual({ damage: damage.what, decoded: undefined });
    }
  });

  test('is refused when it is cut short', () => {
    for (const { bytes: cut } of truncations(bytes)) {
      expect(decodeRecord(cut, 0, seed)).toBeUndefined();
    }
  });

  test('is refused behind another record, or in another log', () => {
    expect(decodeRecord(bytes, 0, seed + 1)).toBeUndefined();
    expect(decodeRecord(bytes, 0, 0)).toBeUndefined();
  });

  test('is refused beyond the end', () => {
    expect(decodeRecord(bytes, bytes.length, seed)).toBeUndefined();
    expect(decodeRecord(bytes, bytes.length + 8, seed)).toBeUndefined();
  });
});

describe('a record with a good checksum', () => {
  const write = golden[0]?.bytes ?? Buffer.alloc(0);
  const control = golden[2]?.bytes ?? Buffer.alloc(0);

  function resealed(bytes: Buffer, change: (bytes: Buffer) => void): Buffer {
    const copy = Buffer.from(bytes);
    change(copy);
    copy.writeUInt32LE(crc32(copy.subarray(8), seed), 4);
    return copy;
  }

  test.each<[string, Buffer, (bytes: Buffer) => void]>([
    ['of an unknown type', write, (bytes) => bytes.writeUInt8(6, 8)],
    ['of type zero', write, (bytes) => bytes.writeUInt8(0, 8)],
    ['that writes no cluster', write, (bytes) => bytes.writeUInt32LE(0, 12)],
    ['with fewer checksums than clusters', write, (bytes) => bytes.writeUInt32LE(5, 12)],
    ['of a control payload beyond its end', control, (bytes) => bytes.writeUInt32LE(25, 12)],
    ['of a control payload that is no JSON', control, (bytes) => bytes.writeUInt8(0x78, 32)],
  ])('is refused: one %s', (_, bytes, change) => {
    expect(decodeRecord(resealed(bytes, change), 0, seed)).toBeUndefined();
  });

  test('is refused when it writes more clusters than an object has', () => {
    const most = { ...(golden[0]?.record as Extract<LogRecord, { type: 'write' }>), index: 0 };
    const full = encodeRecord({ ...most, checksums: new Uint32Array(writeClustersMax) }, seed);
    expect(decodeRecord(full, 0, seed)?.next).toBe(full.length);
    const more = encodeRecord({ ...most, checksums: new Uint32Array(writeClustersMax + 1) }, seed);
    expect(decodeRecord(more, 0, seed)).toBeUndefined();
  });

  test('is accepted with reserved bytes set, which say nothing yet', () => {
    const marked = resealed(write, (bytes) => bytes.writeUIntLE(0xffffff, 9, 3));
    expect(decodeRecord(marked, 0, seed)?.record).toEqual(golden[0]?.record);
  });
});

describe('a length', () => {
  const framed = (length: number, room: number): number | undefined => {
    const bytes = Buffer.alloc(room);
    bytes.writeUInt32LE(length);
    return framedLength(bytes, 0);
  };
  test.each([
    [0, 64, undefined],
    [24, 64, undefined],
    [32, 32, 32],
    [33, 64, undefined],
    [36, 64, undefined],
    [40, 40, 40],
    [40, 39, undefined],
    [0xffffffff, 64, undefined],
    [recordBytesMax, recordBytesMax, recordBytesMax],
    [recordBytesMax + 8, recordBytesMax + 64, undefined],
  ])('of %d bytes, where %d bytes are left, gives %p', (length, room, expected) => {
    expect(framed(length, room)).toBe(expected);
  });
});

test('a payload beyond the bound is a mistake of ours', () => {
  const record: LogRecord = { type: 'control', payload: 'x'.repeat(recordBytesMax) };
  expect(() => encodeRecord(record, seed)).toThrow('BUG');
});
