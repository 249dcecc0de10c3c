/**
 * Requests and replies of the transmission phase as bytes, for both sides. Pure; writers fill a buffer of the
 * caller's, so that many small replies share one. Cookies are opaque: two 32-bit halves, echoed as they came.
 */
import { encodeText } from './handshake-codec.ts';
import {
  allocationFlags,
  chunkFlags,
  readUint64,
  requestHeaderBytes,
  requestMagic,
  simpleReplyMagic,
  structuredReplyMagic,
  writeUint64,
} from './protocol.ts';
import type { Extent } from '../volumes/block-device.ts';

export interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

export interface RequestHeader extends Cookie {
  readonly flags: number;
  readonly command: number;
  readonly offset: number;
  readonly length: number;
}

export function encodeRequest(request: RequestHeader): Buffer {
  const bytes = Buffer.allocUnsafe(requestHeaderBytes);
  bytes.writeUInt32BE(requestMagic, 0);
  bytes.writeUInt16BE(request.flags, 4);
  bytes.writeUInt16BE(request.command, 6);
  bytes.writeUInt32BE(request.cookieHigh, 8);
  bytes.writeUInt32BE(request.cookieLow, 12);
  writeUint64(bytes, request.offset, 16);
  bytes.writeUInt32BE(request.length, 24);
  return bytes;
}

/** Decodes the 28 bytes at `at`, or null when they don't start with the magic of a request. */
export function decodeRequest(bytes: Buffer, at: number): RequestHeader | null {
  if (bytes.readUInt32BE(at) !== requestMagic) return null;
  return {
    flags: bytes.readUInt16BE(at + 4),
    command: bytes.readUInt16BE(at + 6),
    cookieHigh: bytes.readUInt32BE(at + 8),
    cookieLow: bytes.readUInt32BE(at + 12),
    offset: readUint64(bytes, at + 16),
    length: bytes.readUInt32BE(at + 24),
  };
}

/** Returns the position behind the 16 bytes. */
export function writeSimpleReply(bytes: Buffer, at: number, cookie: Cookie, error: number): number {
  bytes.writeUInt32BE(simpleReplyMagic, at);
  bytes.writeUInt32BE(error, at + 4);
  bytes.writeUInt32BE(cookie.cookieHigh, at + 8);
  return bytes.writeUInt32BE(cookie.cookieLow, at + 12);
}

export interface Chunk {
  readonly type: number;
  /** The last chunk of its reply. */
  readonly done: boolean;
  readonly payloadBytes: number;
}

/** Returns the position behind the 20 bytes. */
export function writeChunkHeader(bytes: Buffer, at: number, cookie: Cookie, chunk: Chunk): number {
  bytes.writeUInt32BE(structuredReplyMagic, at);
  bytes.writeUInt16BE(chunk.done ? chunkFlags.DONE : 0, at + 4);
  bytes.writeUInt16BE(chunk.type, at + 6);
  bytes.writeUInt32BE(cookie.cookieHigh, at + 8);
  bytes.writeUInt32BE(cookie.cookieLow, at + 12);
  return bytes.writeUInt32BE(chunk.payloadBytes, at + 16);
}

export interface ChunkHeader extends Cookie, Chunk {}

/** Decodes the 20 bytes at the start, whose magic the caller has seen already. */
export function decodeChunkHeader(bytes: Buffer): ChunkHeader {
  return {
    done: (bytes.readUInt16BE(4) & chunkFlags.DONE) !== 0,
    type: bytes.readUInt16BE(6),
    cookieHigh: bytes.readUInt32BE(8),
    cookieLow: bytes.readUInt32BE(12),
    payloadBytes: bytes.readUInt32BE(16),
  };
}

/** Payload of an error chunk: error, length of the message, message. */
export function encodeErrorPayload(error: number, message: string): Buffer {
  const text = encodeText(message);
  const bytes = Buffer.alloc(6);
  bytes.writeUInt32BE(error, 0);
  bytes.writeUInt16BE(text.length, 4);
  return Buffer.concat([bytes, text]);
}

export function decodeErrorPayload(payload: Buffer): { error: number; message: string } | null {
  if (payload.length < 6) return null;
  const end = 6 + payload.readUInt16BE(4);
  if (payload.length < end) return null;
  return { error: payload.readUInt32BE(0), message: payload.subarray(6, end).toString('utf8') };
}

/** Payload of a status chunk of base:allocation; neighbours of one kind become one descriptor. */
export function encodeAllocation(contextId: number, extents: readonly Extent[]): Buffer {
  const bytes = Buffer.alloc(4 + 8 * extents.length);
  let at = bytes.writeUInt32BE(contextId, 0);
  let last: Extent | undefined;
  for (const extent of extents) {
    if (last?.hole === extent.hole) {
      last = { hole: last.hole, lengthBytes: last.lengthBytes + extent.lengthBytes };
      bytes.writeUInt32BE(last.lengthBytes, at - 8);
      continue;
    }
    last = extent;
    at = bytes.writeUInt32BE(extent.lengthBytes, at);
    at = bytes.writeUInt32BE(extent.hole ? allocationFlags.HOLE | allocationFlags.ZERO : 0, at);
  }
  return bytes.subarray(0, at);
}

export interface StatusDescriptor {
  lengthBytes: number;
  flags: number;
}

export interface BlockStatusPayload {
  contextId: number;
  descriptors: StatusDescriptor[];
}

export function decodeBlockStatus(payload: Buffer): BlockStatusPayload | null {
  if (payload.length < 12 || payload.length % 8 !== 4) return null;
  const descriptors: StatusDescriptor[] = [];
  for (let at = 4; at < payload.length; at += 8) {
    descriptors.push({
      lengthBytes: payload.readUInt32BE(at),
      flags: payload.readUInt32BE(at + 4),
    });
  }
  return { contextId: payload.readUInt32BE(0), descriptors };
}
