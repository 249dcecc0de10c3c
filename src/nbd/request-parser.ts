/**
 * Requests of the transmission phase out of a stream of bytes. Pure: bytes in, calls to a sink out, no sockets.
 *
 * Parsing is in place: a payload that lies within one chunk is a slice of that chunk, and one that spans chunks
 * gets a buffer of its own, into which it is copied once, or received directly (`missingPayload`). With each
 * payload the sink gets the owner of its memory. The sink may stop the parser after any request; the unparsed rest then stays with the caller,
 * so that nothing is ever parsed and not yet handed on.
 */
import { VolumeError } from '../volumes/errors.ts';
import { unpooled, type PayloadOwner, type PayloadPool } from './receive-buffers.ts';
import { blockSizes, commands, requestHeaderBytes } from './protocol.ts';
import { decodeRequest, type RequestHeader } from './transmission-codec.ts';

export interface RequestSink {
  /** Asked before the payload of a WRITE is kept: false throws it away as it comes. */
  keepsPayload(header: RequestHeader): boolean;
  /**
   * A whole request. `payload` is null when the command has none or it was thrown away; it stays unchanged as
   * long as its owner is retained. True to go on parsing, false to stop behind this request.
   */
  request(header: RequestHeader, payload: Buffer | null, owner: PayloadOwner): boolean;
  /** A WRITE with a longer payload than is permitted. Nothing behind it can be parsed: the parser has ended. */
  oversized(header: RequestHeader): void;
}

export class RequestParser {
  readonly #sink: RequestSink;
  readonly #pool: PayloadPool;
  /** A header that is not complete yet. */
  readonly #partial = Buffer.alloc(requestHeaderBytes);
  #partialBytes = 0;
  /** Position in the chunk that is being parsed. */
  #at = 0;
  /** The WRITE whose payload is being received: into `#payload`, or nowhere when that is null. */
  #current: RequestHeader | null = null;
  #payload: Buffer | null = null;
  #payloadOwner: PayloadOwner = unpooled;
  #receivedBytes = 0;
  #ended = false;

  constructor(sink: RequestSink, pool: PayloadPool) {
    this.#sink = sink;
    this.#pool = pool;
  }

  /** Where the rest of a payload belongs: a chunk received there is parsed without being copied. */
  missingPayload(): Buffer | null {
    return this.#payload?.subarray(this.#receivedBytes) ?? null;
  }

  /**
   * Parses `chunk`, whose memory is `owner`'s, from `from` on and returns where it stopped: the end of the chunk, or behind the request
   * that the sink stopped at. PROTOCOL_ERROR when a request does not start with the magic.
   */
  parse(chunk: Buffer, from: number, owner: PayloadOwner): number {
    this.#at = from;
    let going = true;
    while (going && !this.#ended && this.#at < chunk.length) {
      if (this.#current !== null) {
        const missing = this.#current.length - this.#receivedBytes;
        going = this.#continuePayload(this.#current, this.#take(chunk, missing));
      } else if (this.#partialBytes > 0 || chunk.length - this.#at < requestHeaderBytes) {
        going = this.#continueHeader(chunk);
      } else {
        going = this.#next(chunk, owner);
      }
    }
    return this.#ended ? chunk.length : this.#at;
  }

  /** Takes at most `count` bytes of the chunk. */
  #take(chunk: Buffer, count: number): Buffer {
    const piece = chunk.subarray(this.#at, this.#at + count);
    this.#at += piece.length;
    return piece;
  }

  #continueHeader(chunk: Buffer): boolean {
    const piece = this.#take(chunk, requestHeaderBytes - this.#partialBytes);
    piece.copy(this.#partial, this.#partialBytes);
    this.#partialBytes += piece.length;
    if (this.#partialBytes < requestHeaderBytes) return true;
    this.#partialBytes = 0;
    return this.#begin(this.#decode(this.#partial, 0));
  }

  /** The fast path: a header that lies in the chunk, most often with its whole payload. */
  #next(chunk: Buffer, owner: PayloadOwner): boolean {
    const header = this.#decode(chunk, this.#at);
    this.#at += requestHeaderBytes;
    const whole = this.#at + header.length <= chunk.length && this.#fits(header);
    if (header.command !== commands.WRITE || !whole) return this.#begin(header);
    const kept = this.#sink.keepsPayload(header);
    const payload = this.#take(chunk, header.length);
    return this.#sink.request(header, kept ? payload : null, owner);
  }

  #decode(bytes: Buffer, at: number): RequestHeader {
    const header = decodeRequest(bytes, at);
    if (header !== null) return header;
    this.#ended = true;
    throw new VolumeError('PROTOCOL_ERROR', 'read an NBD request: its magic is wrong');
  }

  #fits(header: RequestHeader): boolean {
    return header.length <= blockSizes.maximum;
  }

  /** Starts a request whose payload, if any, is not in the chunk of its header as a whole. */
  #begin(header: RequestHeader): boolean {
    if (header.command !== commands.WRITE) return this.#sink.request(header, null, unpooled);
    if (!this.#fits(header)) {
      this.#ended = true;
      this.#sink.oversized(header);
      return false;
    }
    const kept = this.#sink.keepsPayload(header);
    if (header.length === 0) return this.#sink.request(header, kept ? empty : null, unpooled);
    if (kept) {
      const { bytes, owner } = this.#pool.take(header.length);
      this.#payload = bytes;
      this.#payloadOwner = owner;
    }
    this.#receivedBytes = 0;
    this.#current = header;
    return true;
  }

  #continuePayload(header: RequestHeader, piece: Buffer): boolean {
    const payload = this.#payload;
    if (payload !== null && !liesAt(piece, payload, this.#receivedBytes)) {
      piece.copy(payload, this.#receivedBytes);
    }
    this.#receivedBytes += piece.length;
    if (this.#receivedBytes < header.length) return true;
    const owner = this.#payloadOwner;
    this.#current = null;
    this.#payload = null;
    this.#payloadOwner = unpooled;
    const going = this.#sink.request(header, payload, owner);
    owner.release(); // a sink that uses the payload retains it
    return going;
  }

  /**
   * Nothing more comes: the memory of a payload that is not complete is given back. To be called once nothing can be
   * received into it any more.
   */
  end(): void {
    this.#ended = true;
    this.#payload = null;
    this.#payloadOwner.release();
    this.#payloadOwner = unpooled;
  }
}

const empty = Buffer.alloc(0);

function liesAt(piece: Buffer, payload: Buffer, at: number): boolean {
  return piece.buffer === payload.buffer && piece.byteOffset === payload.byteOffset + at;
}
