/**
 * What the server answers, in the form that was negotiated. With structured replies READ and BLOCK_STATUS are
 * answered in chunks and errors carry a message; success of anything else stays a simple reply, which the
 * protocol permits and which is shorter. A buffer of zeroes in a READ becomes a hole chunk, unless DF is set.
 */
import { assert } from '../base/assert.ts';
import type { Extent } from '../volumes/block-device.ts';
import {
  chunkTypes,
  commandFlags,
  nbdErrors,
  simpleReplyBytes,
  structuredHeaderBytes,
  writeUint64,
  type NbdError,
} from './protocol.ts';
import type { ReplyWriter } from './reply-writer.ts';
import {
  encodeAllocation,
  encodeErrorPayload,
  writeChunkHeader,
  writeSimpleReply,
  type Cookie,
  type RequestHeader,
} from './transmission-codec.ts';

/** A hole shorter than this saves nothing over sending its zeroes. */
const minHoleBytes = 512;
const offsetBytes = 8;
const zeroes = Buffer.alloc(64 * 1024);

export class Replies {
  readonly #writer: ReplyWriter;
  readonly #structured: boolean;

  constructor(writer: ReplyWriter, structured: boolean) {
    this.#writer = writer;
    this.#structured = structured;
  }

  get backlogBytes(): number {
    return this.#writer.backlogBytes;
  }

  success(cookie: Cookie): void {
    const { bytes, at } = this.#writer.reserve(simpleReplyBytes);
    writeSimpleReply(bytes, at, cookie, nbdErrors.OK);
  }

  error(cookie: Cookie, error: NbdError, message: string): void {
    if (!this.#structured) {
      const { bytes, at } = this.#writer.reserve(simpleReplyBytes);
      writeSimpleReply(bytes, at, cookie, error);
      return;
    }
    this.#chunk(cookie, chunkTypes.ERROR, encodeErrorPayload(error, message));
  }

  /** Answers a READ; `buffers` together are as long as was asked. */
  data(header: RequestHeader, buffers: Buffer[]): void {
    let total = 0;
    for (const buffer of buffers) total += buffer.length;
    assert(total === header.length, 'a device reads as many bytes as were asked for');
    if (!this.#structured) {
      const { bytes, at } = this.#writer.reserve(simpleReplyBytes);
      writeSimpleReply(bytes, at, header, nbdErrors.OK);
      for (const buffer of buffers) this.#writer.push(buffer);
    } else if (total === 0) {
      this.#chunk(header, chunkTypes.NONE, zeroes.subarray(0, 0));
    } else if ((header.flags & commandFlags.DF) !== 0) {
      this.#dataChunk(header, { offset: header.offset, length: total, done: true }, buffers);
    } else {
      this.#dataChunks(header, buffers);
    }
  }

  blockStatus(cookie: Cookie, contextId: number, extents: readonly Extent[]): void {
    this.#chunk(cookie, chunkTypes.BLOCK_STATUS, encodeAllocation(contextId, extents));
  }

  /** One chunk for each run of data and each run of zeroes. */
  #dataChunks(header: RequestHeader, buffers: Buffer[]): void {
    const end = header.offset + header.length;
    let offset = header.offset;
    let index = 0;
    while (index < buffers.length) {
      const run: Buffer[] = [];
      let length = 0;
      const hole = isHole(buffers[index]);
      for (; index < buffers.length; index++) {
        const buffer = buffers[index];
        if (buffer === undefined || (run.length > 0 && isHole(buffer) !== hole)) break;
        run.push(buffer);
        length += buffer.length;
      }
      const place = { offset, length, done: offset + length === end };
      if (hole) this.#holeChunk(header, place, run);
      else if (length > 0) this.#dataChunk(header, place, run);
      offset += length;
    }
  }

  #dataChunk(cookie: Cookie, place: Place, run: Buffer[]): void {
    const { bytes, at } = this.#writer.reserve(structuredHeaderBytes + offsetBytes);
    const payloadBytes = offsetBytes + place.length;
    const chunk = { type: chunkTypes.OFFSET_DATA, done: place.done, payloadBytes };
    writeUint64(bytes, place.offset, writeChunkHeader(bytes, at, cookie, chunk));
    for (const buffer of run) this.#writer.push(buffer);
  }

  #holeChunk(cookie: Cookie, place: Place, run: Buffer[]): void {
    const payloadBytes = offsetBytes + 4;
    const { bytes, at } = this.#writer.reserve(structuredHeaderBytes + payloadBytes);
    const chunk = { type: chunkTypes.OFFSET_HOLE, done: place.done, payloadBytes };
    const end = writeUint64(bytes, place.offset, writeChunkHeader(bytes, at, cookie, chunk));
    bytes.writeUInt32BE(place.length, end);
    for (const buffer of run) this.#writer.giveBack(buffer);
  }

  /** A reply of one chunk. */
  #chunk(cookie: Cookie, type: number, payload: Buffer): void {
    const { bytes, at } = this.#writer.reserve(structuredHeaderBytes);
    writeChunkHeader(bytes, at, cookie, { type, done: true, payloadBytes: payload.length });
    if (payload.length > 0) this.#writer.push(payload);
  }
}

interface Place {
  readonly offset: number;
  readonly length: number;
  readonly done: boolean;
}

/** All zeroes, and long enough. Data is told by its first, middle or last byte almost always. */
function isHole(buffer: Buffer | undefined): boolean {
  if (buffer === undefined || buffer.length < minHoleBytes) return false;
  const last = buffer.length - 1;
  if (buffer[0] !== 0 || buffer[last] !== 0 || buffer[last >> 1] !== 0) return false;
  for (let at = 0; at < buffer.length; at += zeroes.length) {
    const piece = buffer.subarray(at, at + zeroes.length);
    if (!piece.equals(piece.length === zeroes.length ? zeroes : zeroes.subarray(0, piece.length))) {
      return false;
    }
  }
  return true;
}
