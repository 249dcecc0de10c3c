/**
 * Requests of our client that wait for their replies, by cookie. Every reply is checked against its request: data
 * must lie within it and be complete, and whatever does not fit is a PROTOCOL_ERROR (thrown to the parser's
 * caller, who ends the connection). Each request is settled exactly once.
 */
import { VolumeError } from '../volumes/errors.ts';
import { codeOfReplyError } from './errors.ts';
import {
  allocationFlags,
  chunkTypes,
  commands,
  isErrorChunk,
  nbdErrors,
  readUint64,
} from './protocol.ts';
import type { ReplySink } from './reply-parser.ts';
import {
  decodeBlockStatus,
  decodeErrorPayload,
  type ChunkHeader,
  type Cookie,
} from './transmission-codec.ts';

export interface StatusExtent {
  readonly lengthBytes: number;
  /** Nothing is allocated there. */
  readonly hole: boolean;
  /** It reads as zeroes. */
  readonly zero: boolean;
}

export interface Answer {
  /** What a READ returned; empty otherwise. */
  readonly data: Buffer;
  readonly extents: StatusExtent[];
}

export interface PendingRequest {
  readonly what: string;
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  readonly settle: (error: VolumeError | null, answer: Answer) => void;
}

interface Pending extends PendingRequest {
  readonly data: Buffer;
  receivedBytes: number;
  extents: StatusExtent[];
  error: VolumeError | null;
}

const noData = Buffer.alloc(0);

export class PendingRequests implements ReplySink {
  readonly #pending = new Map<number, Pending>();
  readonly #allocationContextId: number | null;
  #lastCookie = 0;

  constructor(allocationContextId: number | null) {
    this.#allocationContextId = allocationContextId;
  }

  get size(): number {
    return this.#pending.size;
  }

  /** Returns the cookie that the reply will carry. */
  add(request: PendingRequest): Cookie {
    do this.#lastCookie = (this.#lastCookie + 1) >>> 0;
    while (this.#pending.has(this.#lastCookie));
    // Zeroed, so that a server that sends the same piece twice can't show memory of this process.
    const data = request.command === commands.READ ? Buffer.alloc(request.length) : noData;
    const pending = { ...request, data, receivedBytes: 0, extents: [], error: null };
    this.#pending.set(this.#lastCookie, pending);
    return { cookieHigh: 0, cookieLow: this.#lastCookie };
  }

  /** Settles everything with `error`; replies that still come are unexpected. */
  failAll(error: VolumeError): void {
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of all) pending.settle(error, { data: noData, extents: [] });
  }

  simple(cookie: Cookie, error: number): number {
    const pending = this.#find(cookie);
    if (error !== nbdErrors.OK) {
      pending.error ??= replyError(pending, error, '');
    } else if (pending.command === commands.READ && pending.length > 0) {
      return pending.length;
    } else if (pending.command === commands.BLOCK_STATUS) {
      throw broken('BLOCK_STATUS got a simple reply');
    }
    this.#finish(cookie, pending);
    return 0;
  }

  data(cookie: Cookie, offset: number | null, piece: Buffer): void {
    const pending = this.#find(cookie);
    const at = offset === null ? pending.receivedBytes : offset - pending.offset;
    this.#take(pending, at, piece.length);
    piece.copy(pending.data, at);
  }

  dataEnd(cookie: Cookie, done: boolean): void {
    if (done) this.#finish(cookie, this.#find(cookie));
  }

  chunk(header: ChunkHeader, payload: Buffer): void {
    const pending = this.#find(header);
    if (isErrorChunk(header.type)) {
      const decoded = decodeErrorPayload(payload);
      if (decoded === null) throw broken('an error chunk is malformed');
      pending.error ??= replyError(pending, decoded.error, decoded.message);
    } else if (header.type === chunkTypes.OFFSET_HOLE) {
      this.#hole(pending, payload);
    } else if (header.type === chunkTypes.BLOCK_STATUS) {
      this.#blockStatus(pending, payload);
    } else if (header.type !== chunkTypes.NONE || !header.done) {
      throw broken(`a chunk of type ${header.type} came`);
    }
    if (header.done) this.#finish(header, pending);
  }

  #hole(pending: Pending, payload: Buffer): void {
    if (payload.length !== 12) throw broken('a hole chunk is malformed');
    const at = readUint64(payload, 0) - pending.offset;
    const length = payload.readUInt32BE(8);
    this.#take(pending, at, length);
    pending.data.fill(0, at, at + length);
  }

  #blockStatus(pending: Pending, payload: Buffer): void {
    const status = decodeBlockStatus(payload);
    if (status === null || pending.command !== commands.BLOCK_STATUS) {
      throw broken('a status chunk is malformed or was not asked for');
    }
    if (status.contextId !== this.#allocationContextId) return;
    if (status.descriptors.some(({ lengthBytes }) => lengthBytes === 0)) {
      throw broken('a status descriptor has no length');
    }
    pending.extents = status.descriptors.map(({ lengthBytes, flags }) => ({
      lengthBytes,
      hole: (flags & allocationFlags.HOLE) !== 0,
      zero: (flags & allocationFlags.ZERO) !== 0,
    }));
  }

  /** Counts `length` bytes at `at` of the request's data as received. */
  #take(pending: Pending, at: number, length: number): void {
    if (pending.command !== commands.READ)
      throw broken('data came for a request that reads nothing');
    pending.receivedBytes += length;
    if (at < 0 || at + length > pending.length || pending.receivedBytes > pending.length) {
      throw broken('data lies outside of what was read');
    }
  }

  #find(cookie: Cookie): Pending {
    const pending = cookie.cookieHigh === 0 ? this.#pending.get(cookie.cookieLow) : undefined;
    if (pending === undefined) throw broken('nothing was asked under its cookie');
    return pending;
  }

  #finish(cookie: Cookie, pending: Pending): void {
    if (pending.error === null) {
      if (pending.receivedBytes !== pending.data.length) throw broken('data is missing');
      if (pending.command === commands.BLOCK_STATUS && pending.extents.length === 0) {
        throw broken('a block status has no descriptors');
      }
    }
    this.#pending.delete(cookie.cookieLow);
    pending.settle(pending.error, { data: pending.data, extents: pending.extents });
  }
}

function replyError(pending: Pending, error: number, message: string): VolumeError {
  const why = message === '' ? `the server answered error ${error}` : message;
  return new VolumeError(codeOfReplyError(error), `${pending.what}: ${why}`);
}

function broken(why: string): VolumeError {
  return new VolumeError('PROTOCOL_ERROR', `read an NBD reply: ${why}`);
}
