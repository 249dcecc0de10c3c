/** The header of a TLog: its bytes, and what is refused. */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { flips, hex, truncations } from '../../../test/support/damage.ts';
import {
  decodeTlogHeader,
  encodeTlogHeader,
  headerChecksum,
  linkOf,
  noNonce,
  tlogHeaderBytes,
  type TlogHeader,
} from './tlog-header.ts';

const header: TlogHeader = {
  volume: '01ARZ3NDEKTSV4RRFFQ69G5FAV',
  slot: 0x11_2233_4455,
  epoch: 7,
  writer: 0x01020304,
  checkpointSlot: 0x11_2233_4450,
  boundary: 0x11_2233_4400,
  nonce: 'a0a1a2a3a4a5a6a7a8a9aaabacadaeaf',
  replaces: 'c0c1c2c3c4c5c6c7c8c9cacbcccdcecf',
  previous: 'e0e1e2e3e4e5e6e7',
};

// Written by hand after docs/formats.md: a change of these bytes is a new format version.
const golden = hex(`
  5644544c4f473031 01000000 00000000
  303141525a334e44454b54535634525246465136394735464156 0000 04030201
  5544332211000000 0700000000000000 5044332211000000 0044332211000000
  a0a1a2a3a4a5a6a7a8a9aaabacadaeaf c0c1c2c3c4c5c6c7c8c9cacbcccdcecf
  e0e1e2e3e4e5e6e7 00000000 a66ecb0d`);

function resealed(change: (bytes: Buffer) => void): Buffer {
  const bytes = Buffer.from(golden);
  change(bytes);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 124)), 124);
  return bytes;
}

describe('the header of a TLog', () => {
  test('has the bytes of the format', () => {
    expect(encodeTlogHeader(header).toString('hex')).toBe(golden.toString('hex'));
    expect(golden).toHaveLength(tlogHeaderBytes);
    expect(headerChecksum(golden)).toBe(0x0dcb6ea6);
  });

  test('is read back, whatever follows', () => {
    expect(decodeTlogHeader(golden)).toEqual(header);
    expect(decodeTlogHeader(Buffer.concat([golden, Buffer.alloc(999, 0xff)]))).toEqual(header);
  });

  test('is none with any byte changed', () => {
    for (const { what, bytes } of flips(golden)) {
      expect({ what, header: decodeTlogHeader(bytes) }).toEqual({ what, header: undefined });
    }
  });

  test('is none when it is cut short', () => {
    for (const { bytes } of truncations(golden)) expect(decodeTlogHeader(bytes)).toBeUndefined();
  });

  test('is none in a file of zeroes', () => {
    expect(decodeTlogHeader(Buffer.alloc(4096))).toBeUndefined();
  });

  test.each<[string, (bytes: Buffer) => void]>([
    ['a later version', (bytes) => bytes.writeUInt32LE(2, 8)],
    ['version zero', (bytes) => bytes.writeUInt32LE(0, 8)],
    ['an unknown feature', (bytes) => bytes.writeUInt32LE(1, 12)],
    ['the last feature', (bytes) => bytes.writeUInt32LE(2 ** 31, 12)],
  ])('says so when it is intact and has %s', (_, change) => {
    expect(() => decodeTlogHeader(resealed(change))).toThrow(
      expect.objectContaining({ code: 'CORRUPT', message: expect.stringContaining('newer') }),
    );
  });

  test('is none with another magic, even when its checksum is right', () => {
    const other = resealed((bytes) => bytes.write('VDTLOG02', 'latin1'));
    expect(decodeTlogHeader(other)).toBeUndefined();
  });

  test('takes the largest exact numbers, and no others', () => {
    const largest = { ...header, slot: Number.MAX_SAFE_INTEGER, writer: 0xffffffff };
    expect(decodeTlogHeader(encodeTlogHeader(largest))).toEqual(largest);
    for (const slot of [2 ** 53, -1, 0.5, NaN]) {
      expect(() => encodeTlogHeader({ ...header, slot })).toThrow('BUG');
    }
    expect(() => encodeTlogHeader({ ...header, volume: 'short' })).toThrow('BUG');
  });

  test('names the one before by the first half of its nonce', () => {
    expect(linkOf(header.nonce)).toBe('a0a1a2a3a4a5a6a7');
    expect(linkOf(noNonce)).toBe('0000000000000000');
  });
});
