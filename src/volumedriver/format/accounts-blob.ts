/**
 * The space accounts as a checkpoint stores them (docs/formats.md):
 *   0 magic "VDACCT01", 8 u32 version, 12 u32 objects, 16 u32 deadlists, then
 *   object: u32 counter, u32 writer, u8 kind, u8 zero, u16 clusters, u32 birth, set
 *   deadlist: u32 number of the snapshot that ends it (0 = head), u32 entries, entry: u32 counter, u32 writer, set
 *   set: u16 size, then nothing (0), that many u16 indexes (below 256), or a bitmap of 512 bytes
 *   last: u32 CRC-32 of everything before
 */
import { crc32 } from 'node:zlib';
import { VolumeError } from '../../volumes/errors.ts';
import { ClusterSet } from '../cluster-set.ts';
import { SpaceAccounts, type Deadlist } from '../space-accounts.ts';
import { counterOf, makeObjectId, writerOf } from './location.ts';
import { objectKinds } from './object-footer.ts';

const magic = 'VDACCT01';
const formatVersion = 1;
const bitmapFrom = 256;
const bitmapBytes = 512;

class ByteWriter {
  #bytes = Buffer.alloc(64 * 1024);
  #length = 0;

  u8(value: number): void {
    this.#reserve(1);
    this.#length = this.#bytes.writeUInt8(value, this.#length);
  }

  u16(value: number): void {
    this.#reserve(2);
    this.#length = this.#bytes.writeUInt16LE(value, this.#length);
  }

  u32(value: number): void {
    this.#reserve(4);
    this.#length = this.#bytes.writeUInt32LE(value, this.#length);
  }

  text(value: string): void {
    this.#reserve(value.length);
    this.#length += this.#bytes.write(value, this.#length, 'latin1');
  }

  finish(): Buffer {
    this.u32(crc32(this.#bytes.subarray(0, this.#length)));
    return this.#bytes.subarray(0, this.#length);
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(this.#bytes.length + count)]);
  }
}

export function encodeAccounts(accounts: SpaceAccounts): Buffer {
  const out = new ByteWriter();
  out.text(magic);
  out.u32(formatVersion);
  out.u32(accounts.objects.size);
  out.u32(accounts.deadlists.size + 1);
  for (const [objectId, account] of accounts.objects) {
    writeObjectId(out, objectId);
    out.u8(objectKinds[account.kind]);
    out.u8(0);
    out.u16(account.count);
    out.u32(account.birth);
    writeSet(out, account.freed);
  }
  writeDeadlist(out, 0, accounts.headDeadlist);
  for (const [number, deadlist] of accounts.deadlists) writeDeadlist(out, number, deadlist);
  return out.finish();
}

function writeObjectId(out: ByteWriter, objectId: number): void {
  out.u32(counterOf(objectId));
  out.u32(writerOf(objectId));
}

function writeDeadlist(out: ByteWriter, number: number, deadlist: Deadlist): void {
  out.u32(number);
  out.u32(deadlist.size);
  for (const [objectId, clusters] of deadlist) {
    writeObjectId(out, objectId);
    writeSet(out, clusters);
  }
}

function writeSet(out: ByteWriter, set: ClusterSet): void {
  out.u16(set.size);
  if (set.size < bitmapFrom) {
    for (const index of set) out.u16(index);
    return;
  }
  for (let byte = 0; byte < bitmapBytes; byte++) {
    let bits = 0;
    for (let bit = 0; bit < 8; bit++) if (set.has(byte * 8 + bit)) bits |= 1 << bit;
    out.u8(bits);
  }
}

/** CORRUPT when the bytes are damaged. `snapshots` are the numbers that the checkpoint's state lists. */
export function decodeAccounts(bytes: Buffer, snapshots: readonly number[]): SpaceAccounts {
  const body = bytes.subarray(0, Math.max(0, bytes.length - 4));
  if (bytes.length < 24 || crc32(body) !== bytes.readUInt32LE(bytes.length - 4)) {
    throw new VolumeError('CORRUPT', 'reading the space accounts: their checksum is wrong');
  }
  if (body.toString('latin1', 0, 8) !== magic || body.readUInt32LE(8) !== formatVersion) {
    throw new VolumeError('CORRUPT', 'reading the space accounts: unknown format version');
  }
  const cursor = { body, at: 20 };
  const accounts = new SpaceAccounts();
  accounts.snapshots = [...snapshots];
  for (let n = body.readUInt32LE(12); n > 0; n--) readObject(cursor, accounts);
  for (let n = body.readUInt32LE(16); n > 0; n--) readDeadlist(cursor, accounts);
  return accounts;
}

interface Cursor {
  body: Buffer;
  at: number;
}

function readObject(cursor: Cursor, accounts: SpaceAccounts): void {
  const objectId = readObjectId(cursor);
  const kind = cursor.body.readUInt8(cursor.at) === objectKinds.map ? 'map' : 'data';
  const count = cursor.body.readUInt16LE(cursor.at + 2);
  const birth = cursor.body.readUInt32LE(cursor.at + 4);
  cursor.at += 8;
  accounts.restoreObject(objectId, { kind, birth, count, sealed: true, freed: readSet(cursor) });
}

function readDeadlist(cursor: Cursor, accounts: SpaceAccounts): void {
  const number = cursor.body.readUInt32LE(cursor.at);
  const entries = cursor.body.readUInt32LE(cursor.at + 4);
  cursor.at += 8;
  const deadlist: Deadlist = new Map();
  for (let n = entries; n > 0; n--) deadlist.set(readObjectId(cursor), readSet(cursor));
  if (number === 0) accounts.headDeadlist = deadlist;
  else accounts.deadlists.set(number, deadlist);
}

function readObjectId(cursor: Cursor): number {
  const counter = cursor.body.readUInt32LE(cursor.at);
  const writer = cursor.body.readUInt32LE(cursor.at + 4);
  cursor.at += 8;
  return makeObjectId(writer, counter);
}

function readSet(cursor: Cursor): ClusterSet {
  const size = cursor.body.readUInt16LE(cursor.at);
  cursor.at += 2;
  const set = new ClusterSet();
  if (size < bitmapFrom) {
    for (let n = 0; n < size; n++) set.add(cursor.body.readUInt16LE(cursor.at + 2 * n));
    cursor.at += 2 * size;
    return set;
  }
  for (let index = 0; index < bitmapBytes * 8; index++) {
    if ((cursor.body.readUInt8(cursor.at + (index >>> 3)) & (1 << (index & 7))) !== 0)
      set.add(index);
  }
  cursor.at += bitmapBytes;
  return set;
}
