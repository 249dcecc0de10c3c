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
import { objectClustersMax, objectCounterMax } from './constants.ts';
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
    throw damaged('their checksum is wrong');
  }
  if (body.toString('latin1', 0, 8) !== magic || body.readUInt32LE(8) !== formatVersion) {
    throw damaged('unknown format version');
  }
  const reader = new ByteReader(body, 12);
  const accounts = new SpaceAccounts();
  accounts.snapshots = [...snapshots];
  const objects = reader.u32();
  const deadlists = reader.u32();
  for (let n = objects; n > 0; n--) readObject(reader, accounts);
  for (let n = deadlists; n > 0; n--) readDeadlist(reader, accounts);
  if (reader.left > 0) throw damaged(`${reader.left} bytes follow their end`);
  return accounts;
}

function damaged(why: string): VolumeError {
  return new VolumeError('CORRUPT', `reading the space accounts: ${why}`);
}

class ByteReader {
  readonly #body: Buffer;
  #at: number;

  constructor(body: Buffer, at: number) {
    this.#body = body;
    this.#at = at;
  }

  get left(): number {
    return this.#body.length - this.#at;
  }

  u8(): number {
    return this.#body.readUInt8(this.#take(1));
  }

  u16(): number {
    return this.#body.readUInt16LE(this.#take(2));
  }

  u32(): number {
    return this.#body.readUInt32LE(this.#take(4));
  }

  #take(count: number): number {
    if (count > this.left) throw damaged('they are cut short');
    this.#at += count;
    return this.#at - count;
  }
}

function readObject(reader: ByteReader, accounts: SpaceAccounts): void {
  const objectId = readObjectId(reader);
  const kindNumber = reader.u8();
  const kind = kindNumber === objectKinds.map ? 'map' : 'data';
  if (objectKinds[kind] !== kindNumber) throw damaged(`there is no object of kind ${kindNumber}`);
  reader.u8();
  const count = reader.u16();
  const birth = reader.u32();
  accounts.restoreObject(objectId, { kind, birth, count, sealed: true, freed: readSet(reader) });
}

function readDeadlist(reader: ByteReader, accounts: SpaceAccounts): void {
  const number = reader.u32();
  const entries = reader.u32();
  const deadlist: Deadlist = new Map();
  for (let n = entries; n > 0; n--) deadlist.set(readObjectId(reader), readSet(reader));
  if (number === 0) accounts.headDeadlist = deadlist;
  else accounts.deadlists.set(number, deadlist);
}

function readObjectId(reader: ByteReader): number {
  const counter = reader.u32();
  const writer = reader.u32();
  if (writer === 0 || counter > objectCounterMax) throw damaged('an object has an impossible id');
  return makeObjectId(writer, counter);
}

function readSet(reader: ByteReader): ClusterSet {
  const size = reader.u16();
  const set = new ClusterSet();
  if (size < bitmapFrom) {
    for (let n = 0; n < size; n++) {
      const index = reader.u16();
      if (index >= objectClustersMax) throw damaged(`an object has no cluster ${index}`);
      set.add(index);
    }
  } else {
    for (let byte = 0; byte < bitmapBytes; byte++) {
      const bits = reader.u8();
      for (let bit = 0; bit < 8; bit++) if ((bits & (1 << bit)) !== 0) set.add(byte * 8 + bit);
    }
  }
  if (set.size !== size) throw damaged(`a set of ${size} clusters holds ${set.size}`);
  return set;
}
