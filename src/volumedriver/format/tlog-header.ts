/**
 * The first 128 bytes of every TLog, local file and backend slot alike (docs/formats.md). A slot is a TLog that was
 * committed under its number by put-if-absent; `nonce` tells a repeated attempt of ours from another owner's slot.
 */
import { crc32 } from 'node:zlib';
import { assert } from '../../base/assert.ts';
import { VolumeError } from '../../volumes/errors.ts';

export const tlogHeaderBytes = 128;
const magic = Buffer.from('VDTLOG01', 'latin1');
const formatVersion = 1;
/** Bits of features that change how a TLog is read. None is defined yet: any set bit is refused. */
const knownFeatures = 0;
const checksumOffset = 124;

export interface TlogHeader {
  /** The volume's ULID: 26 characters. */
  volume: string;
  /** The slot that this TLog is, or will be, committed as; slots count from 1. */
  slot: number;
  /** Raised by every open; an owner of a lower epoch is fenced. */
  epoch: number;
  /** The writer id of the open that made this TLog. */
  writer: number;
  /** The newest slot that starts with a checkpoint, this one included; 0 before the first. */
  checkpointSlot: number;
  /** Slots below this number are deleted or may be: readers ignore them. */
  boundary: number;
  /** 16 random bytes, in hexadecimal. */
  nonce: string;
  /** The nonce of the local TLog whose contents a recovery carried over into this one; zeroes otherwise. */
  replaces: string;
  /** The first 8 bytes of the nonce of the slot before, in hexadecimal: a TLog follows only the one that it names. */
  previous: string;
}

export const noNonce = '0'.repeat(32);

/** What the TLog after the one with this nonce has as `previous`. */
export function linkOf(nonce: string): string {
  return nonce.slice(0, 16);
}

export function encodeTlogHeader(header: TlogHeader): Buffer {
  assert(header.volume.length === 26, 'a ULID has 26 characters');
  const bytes = Buffer.alloc(tlogHeaderBytes);
  magic.copy(bytes, 0);
  bytes.writeUInt32LE(formatVersion, 8);
  bytes.writeUInt32LE(knownFeatures, 12);
  bytes.write(header.volume, 16, 'latin1');
  bytes.writeUInt32LE(header.writer, 44);
  writeU64(bytes, header.slot, 48);
  writeU64(bytes, header.epoch, 56);
  writeU64(bytes, header.checkpointSlot, 64);
  writeU64(bytes, header.boundary, 72);
  bytes.write(header.nonce, 80, 'hex');
  bytes.write(header.replaces, 96, 'hex');
  bytes.write(header.previous, 112, 'hex');
  bytes.writeUInt32LE(crc32(bytes.subarray(0, checksumOffset)), checksumOffset);
  return bytes;
}

/** The seed of the first record's checksum. */
export function headerChecksum(header: Buffer): number {
  return header.readUInt32LE(checksumOffset);
}

/** undefined when the bytes hold no intact header; CORRUPT when they hold one that this version can't read. */
export function decodeTlogHeader(bytes: Buffer): TlogHeader | undefined {
  if (bytes.length < tlogHeaderBytes || !bytes.subarray(0, 8).equals(magic)) return undefined;
  const expected = bytes.readUInt32LE(checksumOffset);
  if (crc32(bytes.subarray(0, checksumOffset)) !== expected) return undefined;
  const version = bytes.readUInt32LE(8);
  const features = bytes.readUInt32LE(12);
  if (version !== formatVersion || features !== knownFeatures) {
    throw new VolumeError(
      'CORRUPT',
      `reading a TLog: format version ${version} with features 0x${features.toString(16)} is newer than this ` +
        'volumedriver; install the version that wrote it',
    );
  }
  return {
    volume: bytes.toString('latin1', 16, 42),
    writer: bytes.readUInt32LE(44),
    slot: readU64(bytes, 48),
    epoch: readU64(bytes, 56),
    checkpointSlot: readU64(bytes, 64),
    boundary: readU64(bytes, 72),
    nonce: bytes.toString('hex', 80, 96),
    replaces: bytes.toString('hex', 96, 112),
    previous: bytes.toString('hex', 112, 120),
  };
}

function writeU64(bytes: Buffer, value: number, offset: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, 'numbers on disk are exact');
  bytes.writeBigUInt64LE(BigInt(value), offset);
}

function readU64(bytes: Buffer, offset: number): number {
  return Number(bytes.readBigUInt64LE(offset));
}
