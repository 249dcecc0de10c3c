/**
 * What a client says in the handshake, as events: its flags, then one option after the other. Pure: bytes in,
 * events out. Data of an option that is longer than allowed is skipped, not kept; bad magic and too many
 * bytes or options are PROTOCOL_ERROR. What follows the last option belongs to the transmission phase: rest().
 */
import { VolumeError } from '../volumes/errors.ts';
import { ByteQueue } from './byte-queue.ts';
import { decodeOptionHeader } from './handshake-codec.ts';
import type { NbdLimits } from './limits.ts';
import { handshakeFlags, optionHeaderBytes } from './protocol.ts';

export type HandshakeEvent =
  | { readonly kind: 'flags'; readonly noZeroes: boolean }
  | { readonly kind: 'option'; readonly option: number; readonly data: Buffer }
  | { readonly kind: 'tooBig'; readonly option: number };

type OptionLimits = Pick<NbdLimits, 'optionBytes' | 'handshakeBytes' | 'handshakeOptions'>;

const knownFlags = handshakeFlags.FIXED_NEWSTYLE | handshakeFlags.NO_ZEROES;

export class OptionParser {
  readonly #queue = new ByteQueue();
  readonly #limits: OptionLimits;
  #flagsSeen = false;
  #options = 0;
  #takenBytes = 0;
  /** The option whose too long data is being skipped, and how much of it is still to come. */
  #skipped: { option: number; bytes: number } | null = null;

  constructor(limits: OptionLimits) {
    this.#limits = limits;
  }

  push(chunk: Buffer): void {
    this.#queue.push(chunk);
  }

  /** The next event, or null until more bytes are pushed. */
  next(): HandshakeEvent | null {
    if (!this.#flagsSeen) return this.#nextFlags();
    return this.#skipped === null ? this.#nextOption() : this.#skip(this.#skipped);
  }

  /** The bytes after the last event. */
  rest(): Buffer {
    return this.#queue.take(this.#queue.length);
  }

  #nextFlags(): HandshakeEvent | null {
    const bytes = this.#queue.peek(4);
    if (bytes === null) return null;
    const flags = bytes.readUInt32BE(0);
    if ((flags & ~knownFlags) !== 0) throw broken(`unknown client flags ${flags}`);
    this.#take(4);
    this.#flagsSeen = true;
    return { kind: 'flags', noZeroes: (flags & handshakeFlags.NO_ZEROES) !== 0 };
  }

  #nextOption(): HandshakeEvent | null {
    const bytes = this.#queue.peek(optionHeaderBytes);
    if (bytes === null) return null;
    const header = decodeOptionHeader(bytes);
    if (header === null) throw broken('an option has the wrong magic');
    if (this.#takenBytes + header.dataBytes > this.#limits.handshakeBytes) {
      throw broken(`more than ${this.#limits.handshakeBytes} bytes of options`);
    }
    if (header.dataBytes > this.#limits.optionBytes) {
      this.#countOption();
      this.#take(optionHeaderBytes);
      return this.#skip({ option: header.option, bytes: header.dataBytes });
    }
    if (this.#queue.length < optionHeaderBytes + header.dataBytes) return null;
    this.#countOption();
    this.#take(optionHeaderBytes);
    return { kind: 'option', option: header.option, data: this.#take(header.dataBytes) };
  }

  #skip(skipped: { option: number; bytes: number }): HandshakeEvent | null {
    skipped.bytes -= this.#take(skipped.bytes).length;
    this.#skipped = skipped.bytes > 0 ? skipped : null;
    return this.#skipped === null ? { kind: 'tooBig', option: skipped.option } : null;
  }

  #countOption(): void {
    this.#options += 1;
    if (this.#options > this.#limits.handshakeOptions) {
      throw broken(`more than ${this.#limits.handshakeOptions} options`);
    }
  }

  #take(count: number): Buffer {
    const taken = this.#queue.take(count);
    this.#takenBytes += taken.length;
    return taken;
  }
}

function broken(why: string): VolumeError {
  return new VolumeError('PROTOCOL_ERROR', `negotiate with the NBD client: ${why}`);
}
