/**
 * Replies of one connection on their way out. Those that complete in the same turn of the event loop leave
 * with one write to the socket: headers and small payloads are gathered in a staging buffer, big payloads
 * go by reference (writev). Drops everything once closed.
 */
import type { Socket } from 'node:net';

/** Copying so few bytes costs less than another element of a writev. */
const copiedBytes = 16 * 1024;
const stagingBytes = 256 * 1024;
/** So much waiting starts the socket early, so that sending overlaps with making the next reply. */
const eagerBytes = 256 * 1024;
const spareStagings = 2;
/** With less room than this left, the next replies are staged in another buffer. */
const minRoomBytes = 64 * 1024;

interface Staging {
  readonly bytes: Buffer;
  /** Writes that the system has not taken yet, which may refer to the bytes. */
  writes: number;
}

export class ReplyWriter {
  readonly #socket: Socket;
  readonly #onTaken: () => void;
  /** For a payload that is not needed any more. */
  readonly giveBack: (payload: Buffer) => void;
  readonly #spares: Staging[] = [];
  #staging: Staging;
  /** `#staging` from `#start` to `#end` is not yet in `#parts`. */
  #start = 0;
  #end = 0;
  #parts: Buffer[] = [];
  /** Those of `#parts` that are somebody's, to be given back when they are sent. */
  #lent: Buffer[] = [];
  #partBytes = 0;
  #scheduled = false;
  #closed = false;

  /**
   * `onTaken` is called whenever the system has taken replies without an error, after `giveBack` for each payload that
   * is not needed any more.
   */
  constructor(socket: Socket, onTaken: () => void, giveBack: (payload: Buffer) => void) {
    this.#socket = socket;
    this.#onTaken = onTaken;
    this.giveBack = giveBack;
    this.#staging = newStaging();
  }

  /** Bytes that the client has not taken yet, as far as this process knows. */
  get backlogBytes(): number {
    return this.#socket.writableLength + this.#partBytes + (this.#end - this.#start);
  }

  /** A place for `length` bytes (at most 4 KiB + a header) of the next reply: the caller fills all of them. */
  reserve(length: number): { bytes: Buffer; at: number } {
    this.#makeRoom(length);
    const at = this.#end;
    this.#end += length;
    this.#schedule();
    return { bytes: this.#staging.bytes, at };
  }

  /** Bytes that stay unchanged until they are sent. */
  push(payload: Buffer): void {
    if (payload.length <= copiedBytes) {
      const { bytes, at } = this.reserve(payload.length);
      payload.copy(bytes, at);
      this.giveBack(payload);
      return;
    }
    if (this.#closed) return;
    this.#cut();
    this.#parts.push(payload);
    this.#lent.push(payload);
    this.#partBytes += payload.length;
    this.#schedule();
    if (this.#partBytes >= eagerBytes) this.flush();
  }

  /** Hands everything so far to the socket. */
  flush(): void {
    this.#cut();
    const parts = this.#parts;
    if (parts.length === 0) return;
    this.#parts = [];
    this.#partBytes = 0;
    if (this.#closed) {
      this.#start = 0;
      this.#end = 0;
      return;
    }
    const staging = this.#staging;
    staging.writes++;
    const lent = this.#lent;
    this.#lent = [];
    const last = parts.length - 1;
    if (last > 0) this.#socket.cork();
    for (const [index, part] of parts.entries()) {
      if (index < last) this.#socket.write(part);
      else this.#socket.write(part, (error) => this.#taken(staging, lent, error));
    }
    if (last > 0) this.#socket.uncork();
    this.#start = this.#end;
    if (stagingBytes - this.#end >= minRoomBytes) return;
    this.#staging = this.#spares.pop() ?? newStaging();
    this.#start = 0;
    this.#end = 0;
  }

  close(): void {
    this.#closed = true;
    this.#parts = [];
    this.#lent = [];
    this.#partBytes = 0;
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  /** Moves what is staged into the list of parts. */
  #cut(): void {
    if (this.#end === this.#start) return;
    this.#parts.push(this.#staging.bytes.subarray(this.#start, this.#end));
    this.#partBytes += this.#end - this.#start;
    this.#start = this.#end;
  }

  #makeRoom(length: number): void {
    if (this.#end + length <= stagingBytes) return;
    this.flush();
  }

  #taken(staging: Staging, lent: readonly Buffer[], error: Error | null | undefined): void {
    // A failed write ends the connection, by the socket's error event.
    if (this.#closed || (error !== null && error !== undefined)) return;
    staging.writes--;
    if (staging.writes === 0) this.#unused(staging);
    for (const payload of lent) this.giveBack(payload);
    this.#onTaken();
  }

  /** No write under way refers to it any more. */
  #unused(staging: Staging): void {
    if (staging !== this.#staging) {
      if (this.#spares.length < spareStagings) this.#spares.push(staging);
    } else if (this.#parts.length === 0 && this.#start === this.#end) {
      this.#start = 0;
      this.#end = 0;
    }
  }
}

function newStaging(): Staging {
  return { bytes: Buffer.allocUnsafeSlow(stagingBytes), writes: 0 };
}
