/**
 * Replies of a server out of a stream of bytes, for our client. Pure: bytes in, calls to a sink out. Nothing that
 * the server sends is trusted: what does not fit the request it answers is a PROTOCOL_ERROR, and ends the
 * connection. Data of a READ is handed on as it comes, everything else as a whole.
 */
import { VolumeError } from '../volumes/errors.ts';
import {
  chunkTypes,
  isErrorChunk,
  maxStatusDescriptors,
  maxStringBytes,
  readUint64,
  simpleReplyBytes,
  simpleReplyMagic,
  structuredHeaderBytes,
  structuredReplyMagic,
} from './protocol.ts';
import { decodeChunkHeader, type ChunkHeader, type Cookie } from './transmission-codec.ts';

export interface ReplySink {
  /** A simple reply. Returns how many bytes of data follow it: the length of a READ that succeeded, else 0. */
  simple(cookie: Cookie, error: number): number;
  /** A piece of data of the READ with this cookie, for the device's `offset`. */
  data(cookie: Cookie, offset: number | null, piece: Buffer): void;
  /** The data of a simple reply, or of a data chunk, is complete. */
  dataEnd(cookie: Cookie, done: boolean): void;
  /** A chunk other than OFFSET_DATA, with its whole payload. */
  chunk(header: ChunkHeader, payload: Buffer): void;
}

/** Data that is still to come: of a simple reply when `offset` is null. */
interface Stream {
  readonly cookie: Cookie;
  readonly done: boolean;
  offset: number | null;
  bytes: number;
}

const magicBytes = 4;
const offsetBytes = 8;

export class ReplyParser {
  readonly #sink: ReplySink;
  readonly #structured: boolean;
  /** The message that is being collected, until it has `#wantedBytes`. */
  #partial = Buffer.allocUnsafe(structuredHeaderBytes);
  #partialBytes = 0;
  #wantedBytes = magicBytes;
  /** The header whose payload (or whose payload's offset) is being collected. */
  #header: ChunkHeader | null = null;
  #stream: Stream | null = null;

  constructor(sink: ReplySink, structured: boolean) {
    this.#sink = sink;
    this.#structured = structured;
  }

  parse(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#stream !== null) {
        const count = Math.min(this.#stream.bytes, chunk.length - at);
        this.#feedStream(this.#stream, chunk.subarray(at, at + count));
        at += count;
        continue;
      }
      const count = Math.min(this.#wantedBytes - this.#partialBytes, chunk.length - at);
      chunk.copy(this.#partial, this.#partialBytes, at, at + count);
      this.#partialBytes += count;
      at += count;
      if (this.#partialBytes === this.#wantedBytes) this.#collected();
    }
  }

  #collected(): void {
    const bytes = this.#partial.subarray(0, this.#wantedBytes);
    if (this.#header !== null) this.#payloadCollected(this.#header, bytes);
    else if (this.#wantedBytes === magicBytes) this.#want(this.#sizeOf(bytes));
    else if (this.#wantedBytes === simpleReplyBytes) this.#simple(bytes);
    else this.#chunkHeader(decodeChunkHeader(bytes));
  }

  #sizeOf(bytes: Buffer): number {
    const magic = bytes.readUInt32BE(0);
    if (magic === simpleReplyMagic) return simpleReplyBytes;
    if (magic === structuredReplyMagic && this.#structured) return structuredHeaderBytes;
    throw broken('a reply has the wrong magic');
  }

  #simple(bytes: Buffer): void {
    const cookie = { cookieHigh: bytes.readUInt32BE(8), cookieLow: bytes.readUInt32BE(12) };
    const dataBytes = this.#sink.simple(cookie, bytes.readUInt32BE(4));
    if (dataBytes > 0) this.#stream = { cookie, done: true, offset: null, bytes: dataBytes };
    this.#restart();
  }

  #chunkHeader(header: ChunkHeader): void {
    if (header.payloadBytes > maxPayloadBytes(header.type)) {
      throw broken(`a chunk of type ${header.type} has ${header.payloadBytes} bytes`);
    }
    if (header.type === chunkTypes.OFFSET_DATA && header.payloadBytes <= offsetBytes) {
      throw broken('a data chunk has no data');
    }
    if (header.payloadBytes === 0) {
      this.#sink.chunk(header, Buffer.alloc(0));
      this.#restart();
      return;
    }
    this.#header = header;
    this.#restart(header.type === chunkTypes.OFFSET_DATA ? offsetBytes : header.payloadBytes);
  }

  #payloadCollected(header: ChunkHeader, bytes: Buffer): void {
    this.#header = null;
    if (header.type === chunkTypes.OFFSET_DATA) {
      const left = header.payloadBytes - offsetBytes;
      const offset = readUint64(bytes, 0);
      this.#stream = { cookie: header, done: header.done, offset, bytes: left };
    } else {
      this.#sink.chunk(header, bytes);
    }
    this.#restart();
  }

  #feedStream(stream: Stream, piece: Buffer): void {
    this.#sink.data(stream.cookie, stream.offset, piece);
    if (stream.offset !== null) stream.offset += piece.length;
    stream.bytes -= piece.length;
    if (stream.bytes > 0) return;
    this.#stream = null;
    this.#sink.dataEnd(stream.cookie, stream.done);
  }

  /** Goes on collecting the message at hand. */
  #want(bytes: number): void {
    this.#wantedBytes = bytes;
  }

  /** Starts to collect the next message, whose buffer the last one no longer shares if it was big. */
  #restart(bytes = magicBytes): void {
    this.#partialBytes = 0;
    this.#wantedBytes = bytes;
    const size = Math.max(bytes, structuredHeaderBytes);
    if (this.#partial.length !== size) this.#partial = Buffer.allocUnsafe(size);
  }
}

function maxPayloadBytes(type: number): number {
  if (type === chunkTypes.OFFSET_DATA) return Number.MAX_SAFE_INTEGER;
  if (type === chunkTypes.BLOCK_STATUS) return 4 + 8 * maxStatusDescriptors;
  if (isErrorChunk(type)) return 6 + maxStringBytes + offsetBytes;
  return type === chunkTypes.OFFSET_HOLE ? offsetBytes + 4 : 0;
}

function broken(why: string): VolumeError {
  return new VolumeError('PROTOCOL_ERROR', `read an NBD reply: ${why}`);
}
