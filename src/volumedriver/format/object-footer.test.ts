/** The end of an object: its bytes, and that no damage passes. */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { flips, hex } from '../../../test/support/damage.ts';
import { makeObjectId } from './location.ts';
import {
  decodeObjectTail,
  encodeObjectTail,
  objectBytes,
  objectFooterBytes,
  type ObjectTable,
} from './object-footer.ts';

const objectId = makeObjectId(9, 0xabcde);
const table: ObjectTable = {
  kind: 'data',
  checksums: Uint32Array.of(0x11111111, 0x22222222),
  clusters: Float64Array.of(5, 0x3_0000_0001),
};

// Written by hand after docs/formats.md: a change of these bytes is a new format version.
const golden = hex(`
  0000 0000 11111111 0500000000000000 00000000000000000000000000000000
  0100 0000 22222222 0100000003000000 00000000000000000000000000000000
  56444f424a303031 01000000 00000000 09000000 debc0a00 01000000 02000000
  00000000 00000000 47b2c6c1 00000000000000000000000000000000 85da7b12`);
const goldenEmptyMap = hex(`
  56444f424a303031 01000000 00000000 01000000 00000000 02000000 00000000
  00000000 00000000 00000000 00000000000000000000000000000000 17a2b858`);

const clusters = Buffer.alloc(2 * 4096, 0x5a);
const object = Buffer.concat([clusters, golden]);

function refused(bytes: Buffer, id = objectId): string {
  try {
    decodeObjectTail(bytes, id);
  } catch (error) {
    expect(error).toMatchObject({ name: 'VolumeError', code: 'CORRUPT' });
    return (error as Error).message.replace(/^reading object [0-9a-f-]+: /, '');
  }
  throw new Error('it was accepted');
}

function resealed(change: (footer: Buffer) => void): Buffer {
  const bytes = Buffer.from(object);
  const footer = bytes.subarray(-objectFooterBytes);
  change(footer);
  footer.writeUInt32LE(crc32(footer.subarray(0, 60)), 60);
  return bytes;
}

describe('the end of an object', () => {
  test('has the bytes of the format', () => {
    expect(encodeObjectTail(objectId, table).toString('hex')).toBe(golden.toString('hex'));
    const none = {
      kind: 'map',
      checksums: new Uint32Array(),
      clusters: new Float64Array(),
    } as const;
    const empty = encodeObjectTail(makeObjectId(1, 0), none);
    expect(empty.toString('hex')).toBe(goldenEmptyMap.toString('hex'));
  });

  test('is read back', () => {
    expect(decodeObjectTail(object, objectId)).toEqual(table);
    expect(object).toHaveLength(objectBytes(2));
    const empty = decodeObjectTail(goldenEmptyMap, makeObjectId(1, 0));
    expect(empty).toMatchObject({ kind: 'map', checksums: new Uint32Array() });
  });

  test('is read back when the object is full', () => {
    const count = 4096;
    const full: ObjectTable = {
      kind: 'map',
      checksums: Uint32Array.from({ length: count }, (_, i) => i * 1_000_003),
      clusters: Float64Array.from({ length: count }, (_, i) => i * 2 ** 22),
    };
    const bytes = Buffer.concat([Buffer.alloc(count * 4096), encodeObjectTail(objectId, full)]);
    expect(decodeObjectTail(bytes, objectId)).toEqual(full);
  });

  test('is refused with any byte changed', () => {
    for (const { bytes } of flips(golden)) refused(Buffer.concat([clusters, bytes]));
  });

  test('is refused in an object of another length', () => {
    for (let cut = 1; cut <= golden.length; cut++) refused(object.subarray(0, object.length - cut));
    refused(object.subarray(1));
    refused(object.subarray(4096));
    refused(Buffer.concat([object, Buffer.alloc(1)]));
    refused(Buffer.concat([Buffer.alloc(4096), object]));
    refused(Buffer.alloc(0));
  });

  test('is refused in the place of another object', () => {
    for (const other of [makeObjectId(9, 0xabcdf), makeObjectId(8, 0xabcde), 1]) {
      expect(refused(object, other)).toBe('it is another object');
    }
  });

  test.each<[string, number, number, string]>([
    ['a later version', 8, 2, 'its format version is unknown'],
    ['a feature', 12, 1, 'its format version is unknown'],
    ['a writer of zero', 16, 0, 'it is another object'],
    ['a counter of more than 20 bits', 20, 2 ** 20, 'it is another object'],
    ['an unknown kind', 24, 3, 'its kind is unknown'],
    ['more clusters than it has', 28, 3, 'its length does not fit 3 clusters'],
    ['the most clusters', 28, 0xffffffff, 'its length does not fit 4294967295 clusters'],
    ['a key', 32, 1, 'its format version is unknown'],
    ['a rewrite', 36, 1, 'its format version is unknown'],
    ['another table', 40, 1, 'the checksum of its table is wrong'],
  ])('is refused when it says to have %s', (_, offset, value, why) => {
    expect(refused(resealed((footer) => footer.writeUInt32LE(value, offset)))).toBe(why);
  });
});
