/** Locations and the checksums that are seeded with them. */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { clusterChecksum, locationSeed } from './checksum.ts';
import {
  counterOf,
  formatObjectId,
  indexOf,
  locationLow,
  makeObjectId,
  objectIdOf,
  parseObjectId,
  writerOf,
} from './location.ts';

const places = [
  { writer: 1, counter: 0, index: 0, low: 0, text: '00000001-00000' },
  { writer: 1, counter: 1, index: 0, low: 0x1000, text: '00000001-00001' },
  { writer: 9, counter: 0xabcde, index: 0x123, low: 0xabcde123, text: '00000009-abcde' },
  {
    writer: 0xffffffff,
    counter: 0xfffff,
    index: 4095,
    low: 0xffffffff,
    text: 'ffffffff-fffff',
  },
];

describe.each(places)('the place $text', ({ writer, counter, index, low, text }) => {
  const objectId = makeObjectId(writer, counter);

  test('survives the ways to write it', () => {
    expect(Number.isSafeInteger(objectId)).toBe(true);
    expect([writerOf(objectId), counterOf(objectId)]).toEqual([writer, counter]);
    expect(locationLow(objectId, index)).toBe(low);
    expect([objectIdOf(writer, low), indexOf(low)]).toEqual([objectId, index]);
    expect(formatObjectId(objectId)).toBe(text);
    expect(parseObjectId(text)).toBe(objectId);
  });

  test('seeds checksums with its eight bytes', () => {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32LE(low, 0);
    bytes.writeUInt32LE(writer, 4);
    expect(locationSeed(objectId, index) >>> 0).toBe(crc32(bytes));
    const data = Buffer.alloc(4096, 0xa5);
    expect(clusterChecksum(data, objectId, index)).toBe(crc32(Buffer.concat([bytes, data])));
  });
});

test('checksums are those of the format', () => {
  const objectId = makeObjectId(9, 0xabcde);
  expect(clusterChecksum(Buffer.alloc(4096), objectId, 0x123)).toBe(0x30fd9cc3);
  const counting = Buffer.from(Array.from({ length: 4096 }, (_, i) => i & 0xff));
  expect(clusterChecksum(counting, objectId, 0x123)).toBe(0x5570bc50);
});

test('the same bytes have another checksum in any other place', () => {
  const data = Buffer.alloc(4096, 7);
  const sums = new Set<number>();
  for (const writer of [1, 2, 256, 0x10000]) {
    for (const counter of [0, 1, 16, 0xfffff]) {
      for (const index of [0, 1, 4095]) {
        sums.add(clusterChecksum(data, makeObjectId(writer, counter), index));
      }
    }
  }
  expect(sums.size).toBe(4 * 4 * 3);
});

test.each([
  '',
  '00000001',
  '00000000-00001',
  '1-00001',
  '00000001-0001',
  '00000001-000001',
  '0000000A-00001',
  '00000001-00001.sco',
  ' 00000001-00001',
])('%j is the name of no object', (text) => {
  expect(parseObjectId(text)).toBeUndefined();
});

test('ids out of range are mistakes of ours', () => {
  for (const [writer, counter] of [
    [0, 0],
    [2 ** 32, 0],
    [1, -1],
    [1, 2 ** 20],
  ] as const) {
    expect(() => makeObjectId(writer, counter)).toThrow('BUG');
  }
  for (const index of [-1, 4096]) expect(() => locationLow(1 << 20, index)).toThrow('BUG');
});
