/** Stored space accounts: their bytes, and that no damage passes. */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { flips, hex, truncations } from '../../../test/support/damage.ts';
import { SpaceAccounts } from '../space-accounts.ts';
import { decodeAccounts, encodeAccounts } from './accounts-blob.ts';
import { makeObjectId } from './location.ts';

// Written by hand after docs/formats.md: a change of these bytes is a new format version.
const golden = hex(`
  5644414343543031 01000000 02000000 02000000
  debc0a00 09000000 01 00 0010 03000000 0200 0000 2301
  01000000 0a000000 02 00 0200 00000000 0000
  00000000 00000000
  04000000 01000000 debc0a00 09000000 0100 0700
  57ac86b2`);

const data = makeObjectId(9, 0xabcde);
const map = makeObjectId(10, 1);

/** What the golden bytes say, made by the calls of a live volume. */
function example(): SpaceAccounts {
  const accounts = new SpaceAccounts();
  accounts.addObject(data, 'data', 3);
  accounts.addObject(map, 'map', 0);
  accounts.extendObject(data, 4096);
  accounts.extendObject(map, 2);
  accounts.sealObject(data);
  accounts.sealObject(map);
  accounts.release(data, 0, 3);
  accounts.release(data, 0x123, 3);
  accounts.snapshotTaken(4);
  accounts.release(data, 7, 4);
  accounts.deadlists.set(4, accounts.headDeadlist); // the head's only differs in its number
  accounts.headDeadlist = new Map();
  return accounts;
}

/** Everything that accounts say, as plain data. */
function plain(accounts: SpaceAccounts): unknown {
  const lists = (deadlist: SpaceAccounts['headDeadlist']): unknown =>
    [...deadlist].map(([objectId, clusters]) => [objectId, [...clusters]]);
  return {
    objects: [...accounts.objects].map(([id, account]) => [
      id,
      { ...account, freed: [...account.freed] },
    ]),
    head: lists(accounts.headDeadlist),
    deadlists: [...accounts.deadlists].map(([number, deadlist]) => [number, lists(deadlist)]),
    snapshots: accounts.snapshots,
    usedBytes: accounts.usedBytes,
  };
}

function refused(bytes: Buffer): string {
  try {
    decodeAccounts(bytes, [4]);
  } catch (error) {
    expect(error).toMatchObject({ name: 'VolumeError', code: 'CORRUPT' });
    return (error as Error).message.replace('reading the space accounts: ', '');
  }
  throw new Error('it was accepted');
}

function resealed(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(crc32(bytes.subarray(0, -4)), bytes.length - 4);
  return bytes;
}

describe('stored space accounts', () => {
  test('have the bytes of the format', () => {
    expect(encodeAccounts(example()).toString('hex')).toBe(golden.toString('hex'));
  });

  test('are read back', () => {
    expect(plain(decodeAccounts(golden, [4]))).toEqual(plain(example()));
    expect(decodeAccounts(golden, [4]).usedBytes).toBe((4094 + 2) * 4096);
  });

  test('are read back when there is nothing in them', () => {
    const empty = encodeAccounts(new SpaceAccounts());
    expect(plain(decodeAccounts(empty, []))).toEqual(plain(new SpaceAccounts()));
  });

  test.each([1, 255, 256, 257, 4096])('are read back with sets of %d clusters', (count) => {
    const accounts = new SpaceAccounts();
    accounts.addObject(data, 'data', 0);
    accounts.extendObject(data, 4096);
    const step = Math.floor(4096 / count);
    for (let i = 0; i < count; i++) accounts.release(data, i * step, 0);
    accounts.sealObject(data);
    const back = decodeAccounts(encodeAccounts(accounts), []);
    expect([...(back.objects.get(data)?.freed ?? [])]).toEqual(
      Array.from({ length: count }, (_, i) => i * step),
    );
    expect(back.takeDoomed()).toEqual(count === 4096 ? [data] : []);
  });

  test('are read back when they outgrow the first buffer', () => {
    const accounts = new SpaceAccounts();
    for (let counter = 0; counter < 5000; counter++) {
      accounts.addObject(makeObjectId(1, counter), 'data', counter % 7);
      accounts.extendObject(makeObjectId(1, counter), 4096);
      accounts.sealObject(makeObjectId(1, counter));
      accounts.release(makeObjectId(1, counter), counter % 4096, 9);
    }
    expect(plain(decodeAccounts(encodeAccounts(accounts), []))).toEqual(plain(accounts));
  });

  test('are refused with any byte changed', () => {
    for (const { bytes } of flips(golden)) refused(bytes);
  });

  test('are refused when they are cut short or go on', () => {
    for (const { bytes } of truncations(golden)) refused(bytes);
    refused(Buffer.concat([golden, Buffer.alloc(1)]));
    refused(Buffer.concat([golden, golden]));
  });

  test('are refused when their checksum is right but they end elsewhere', () => {
    for (let length = 24; length < golden.length; length++) {
      refused(resealed(Buffer.from(golden.subarray(0, length))));
    }
    const longer = resealed(Buffer.concat([golden.subarray(0, -4), Buffer.alloc(9)]));
    expect(refused(longer)).toBe('5 bytes follow their end');
  });

  test.each<[string, (bytes: Buffer) => void, string]>([
    ['another magic', (bytes) => bytes.write('VDACCT02', 'latin1'), 'unknown format version'],
    ['a later version', (bytes) => bytes.writeUInt32LE(2, 8), 'unknown format version'],
    ['too many objects', (bytes) => bytes.writeUInt32LE(0xffffffff, 12), 'impossible id'],
    ['too many deadlists', (bytes) => bytes.writeUInt32LE(0xffffffff, 16), 'cut short'],
    ['a writer of zero', (bytes) => bytes.writeUInt32LE(0, 24), 'impossible id'],
    ['a counter of 21 bits', (bytes) => bytes.writeUInt32LE(2 ** 20, 20), 'impossible id'],
    ['an unknown kind', (bytes) => bytes.writeUInt8(3, 28), 'there is no object of kind 3'],
    ['a cluster twice', (bytes) => bytes.writeUInt16LE(0, 40), 'a set of 2 clusters holds 1'],
    ['a cluster too high', (bytes) => bytes.writeUInt16LE(4096, 40), 'no cluster 4096'],
  ])('are refused with %s, even when the checksum is right', (_, change, why) => {
    const bytes = Buffer.from(golden);
    change(bytes);
    expect(refused(resealed(bytes))).toContain(why);
  });
});
