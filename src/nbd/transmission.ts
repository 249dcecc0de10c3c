/**
 * The server's side of the transmission phase: checks each request, hands it to the device in the turn in which
 * it was parsed, and answers when the device is done. Refused requests are answered too, so that the
 * connection stays in step. At most `limits` requests and bytes are in flight: then the parser is stopped.
 */
import { assert, AssertionError } from '../base/assert.ts';
import type { Logger } from '../base/logger.ts';
import type { BlockDevice } from '../volumes/block-device.ts';
import { VolumeError, type ErrorCode } from '../volumes/errors.ts';
import { beyondEndError, replyErrorOf } from './errors.ts';
import { maxExtentsPerReply, type NbdLimits } from './limits.ts';
import type { Agreement } from './negotiation.ts';
import { blockSizes, commandFlags, commands, nbdErrors, type NbdError } from './protocol.ts';
import { unpooled, type PayloadOwner } from './receive-buffers.ts';
import type { Replies } from './replies.ts';
import type { RequestSink } from './request-parser.ts';
import type { RequestHeader } from './transmission-codec.ts';

export interface TransmissionEvents {
  /** Requests that were left unparsed may go on now. */
  resume(): void;
  /** The client leaves (NBD_CMD_DISC): close when all is answered. */
  finish(why: string): void;
  /** The same for a client that can't be understood any more, and may still be sending. */
  refuse(why: string): void;
}

export interface TransmissionContext {
  readonly limits: NbdLimits;
  readonly logger: Logger;
  readonly events: TransmissionEvents;
  /** Whether unanswered writes hold too much of the receive memory. */
  readonly exhausted: () => boolean;
}

const durable = { fua: true } as const;
const cached = { fua: false } as const;

const allowedFlags: Readonly<Record<number, number>> = {
  [commands.READ]: commandFlags.FUA | commandFlags.DF,
  [commands.WRITE]: commandFlags.FUA,
  [commands.FLUSH]: commandFlags.FUA,
  [commands.TRIM]: commandFlags.FUA,
  [commands.CACHE]: commandFlags.FUA,
  [commands.WRITE_ZEROES]: commandFlags.FUA | commandFlags.NO_HOLE | commandFlags.FAST_ZERO,
  [commands.BLOCK_STATUS]: commandFlags.FUA | commandFlags.REQ_ONE,
};

export class Transmission implements RequestSink {
  readonly #device: BlockDevice;
  readonly #agreement: Agreement;
  readonly #replies: Replies;
  readonly #limits: NbdLimits;
  readonly #logger: Logger;
  readonly #events: TransmissionEvents;
  readonly #exhausted: () => boolean;
  #inFlightRequests = 0;
  #inFlightBytes = 0;
  /** The parser was stopped by a limit and has to be told when there is room again. */
  #stalled = false;
  #finishing = false;
  #failures = 0;
  /** The kinds of failures that have been logged; null for what is no VolumeError. */
  readonly #logged = new Set<ErrorCode | null>();
  #whenIdle: (() => void)[] = [];

  constructor(agreement: Agreement, replies: Replies, context: TransmissionContext) {
    this.#device = agreement.device;
    this.#agreement = agreement;
    this.#replies = replies;
    this.#limits = context.limits;
    this.#logger = context.logger;
    this.#events = context.events;
    this.#exhausted = context.exhausted;
  }

  /** True while a request would be in the way of the limits: nothing may be parsed. `resume` follows. */
  isFull(): boolean {
    this.#stalled =
      this.#inFlightRequests >= this.#limits.inFlightRequests ||
      this.#inFlightBytes >= this.#limits.inFlightBytes ||
      this.#exhausted() ||
      this.#replies.backlogBytes >= this.#limits.replyBacklogBytes;
    return this.#stalled;
  }

  get failures(): number {
    return this.#failures;
  }

  /** Resolves when every request handed to the device has been answered. */
  idle(): Promise<void> {
    if (this.#inFlightRequests === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  /**
   * Looks again whether there is room: called whenever replies have been sent without an error, and only then.
   * A connection that waits is not read, so that sending shows first whether its client is gone: what a dead
   * client had asked for must not be done later, over what its successor wrote.
   */
  wake(): void {
    if (this.#stalled && !this.isFull()) this.#events.resume();
  }

  /** No request is accepted after this; those in flight are answered. */
  stop(): void {
    this.#finishing = true;
  }

  keepsPayload(header: RequestHeader): boolean {
    return this.#refusal(header) === nbdErrors.OK;
  }

  request(header: RequestHeader, payload: Buffer | null, owner: PayloadOwner): boolean {
    if (this.#finishing) return false;
    if (header.command === commands.DISC) {
      this.#finishing = true;
      this.#events.finish('the client left');
      return false;
    }
    const refusal = this.#refusal(header);
    if (refusal !== nbdErrors.OK) {
      this.#replies.error(header, refusal, refusalText(refusal));
    } else if (header.command === commands.WRITE && payload === null) {
      // It was refused when its payload came, and would be accepted now (the volume grew in between).
      this.#replies.error(header, beyondEndError(header.command), 'past the end of the device');
    } else {
      this.#inFlightRequests += 1;
      this.#inFlightBytes += costOf(header);
      if (payload !== null) owner.retain();
      void this.#execute(header, payload, payload === null ? unpooled : owner);
    }
    return !this.isFull();
  }

  oversized(header: RequestHeader): void {
    if (this.#finishing) return;
    this.#finishing = true;
    const text = `a payload is at most ${blockSizes.maximum} bytes`;
    this.#replies.error(header, nbdErrors.EINVAL, text);
    this.#events.refuse('the client sent too long a payload');
  }

  /** Never rejects. The device sees the call before this returns its promise. */
  async #execute(
    header: RequestHeader,
    payload: Buffer | null,
    owner: PayloadOwner,
  ): Promise<void> {
    try {
      if (header.command === commands.READ) {
        this.#replies.data(header, await this.#read(header));
      } else if (header.command === commands.BLOCK_STATUS) {
        await this.#blockStatus(header);
      } else {
        await this.#change(header, payload);
        this.#replies.success(header);
      }
    } catch (error) {
      this.#fail(header, error);
    }
    owner.release();
    this.#inFlightRequests -= 1;
    this.#inFlightBytes -= costOf(header);
    // A stopped parser goes on in `wake`, when the reply has left: see there.
    if (this.#inFlightRequests === 0 && this.#whenIdle.length > 0) {
      for (const resolve of this.#whenIdle.splice(0)) resolve();
    }
  }

  #read(header: RequestHeader): Promise<Buffer[]> | Buffer[] {
    return header.length === 0 ? [] : this.#device.read(header.offset, header.length);
  }

  async #blockStatus(header: RequestHeader): Promise<void> {
    const contextId = this.#agreement.allocationContextId;
    assert(contextId !== null, 'BLOCK_STATUS was let through without a context');
    const maxExtents = (header.flags & commandFlags.REQ_ONE) !== 0 ? 1 : maxExtentsPerReply;
    const extents = await this.#device.extents(header.offset, header.length, maxExtents);
    assert(extents.length > 0, 'a device returned no extents');
    this.#replies.blockStatus(header, contextId, extents.slice(0, maxExtents));
  }

  #change(header: RequestHeader, payload: Buffer | null): Promise<void> {
    const { offset, length, flags } = header;
    const options = (flags & commandFlags.FUA) !== 0 ? durable : cached;
    if (header.command === commands.FLUSH) return this.#device.flush();
    // Nothing to change; only the promise of FUA is left.
    if (length === 0) return options.fua ? this.#device.flush() : Promise.resolve();
    switch (header.command) {
      case commands.WRITE:
        assert(payload !== null, 'a WRITE was let through without its payload');
        return this.#device.write(offset, payload, options);
      case commands.TRIM:
        return this.#device.discard(offset, length, options);
      case commands.WRITE_ZEROES:
        return this.#device.writeZeroes(offset, length, {
          fua: options.fua,
          allocate: (flags & commandFlags.NO_HOLE) !== 0,
        });
      default:
        return this.#device.cache(offset, length);
    }
  }

  #fail(header: RequestHeader, error: unknown): void {
    this.#failures += 1;
    if (error instanceof AssertionError) {
      queueMicrotask(() => {
        throw error; // our own mistake: the process must not go on
      });
    }
    const code = error instanceof VolumeError ? error.code : null;
    // One line per connection and kind: a broken device fails thousands of requests.
    if (!this.#logged.has(code)) {
      this.#logged.add(code);
      const fields = { command: header.command, offset: header.offset, code, error };
      // Damage, and our own mistakes, need somebody who looks.
      if (code === 'CORRUPT' || code === null) this.#logger.error('request failed', fields);
      else this.#logger.warn('request failed', fields);
    }
    const message = error instanceof VolumeError ? error.message : 'internal error';
    this.#replies.error(header, replyErrorOf(error, header.command), message);
  }

  /** Why a request can't be handed to the device; the size is looked up anew, since volumes grow. */
  #refusal(header: RequestHeader): NbdError {
    const { command, flags, offset, length } = header;
    const allowed = allowedFlags[command];
    if (allowed === undefined || (flags & ~allowed) !== 0) return nbdErrors.EINVAL;
    if (command === commands.FLUSH) {
      return offset === 0 && length === 0 ? nbdErrors.OK : nbdErrors.EINVAL;
    }
    if (changes(command) && this.#device.readOnly) return nbdErrors.EPERM;
    if (offset + length > this.#device.sizeBytes) return beyondEndError(command);
    return this.#refusalOfKind(header);
  }

  #refusalOfKind({ command, flags, length }: RequestHeader): NbdError {
    if (command === commands.READ) {
      const whole = (flags & commandFlags.DF) !== 0;
      if (whole && !this.#agreement.structuredReplies) return nbdErrors.EINVAL;
      if (length <= blockSizes.maximum) return nbdErrors.OK;
      return whole ? nbdErrors.EOVERFLOW : nbdErrors.EINVAL;
    }
    if (command === commands.BLOCK_STATUS) {
      const possible = this.#agreement.allocationContextId !== null && length > 0;
      return possible ? nbdErrors.OK : nbdErrors.EINVAL;
    }
    if (command === commands.WRITE_ZEROES) {
      // Zeroes that must be stored are no faster than a write.
      const both = commandFlags.FAST_ZERO | commandFlags.NO_HOLE;
      if ((flags & both) === both) return nbdErrors.ENOTSUP;
    }
    return nbdErrors.OK;
  }
}

function changes(command: number): boolean {
  return (
    command === commands.WRITE || command === commands.TRIM || command === commands.WRITE_ZEROES
  );
}

/** A look-up of what is where takes about so much memory, where each cluster lies elsewhere than its neighbours. */
const lookupShare = 64 / 4096;
/** A device looks up no more than this at a time. */
const lookupBytesMax = 2 ** 30;

/** Memory that a request takes while it is in flight. */
function costOf({ command, length }: RequestHeader): number {
  if (command === commands.READ || command === commands.WRITE) return length;
  if (command !== commands.BLOCK_STATUS && command !== commands.CACHE) return 0;
  return Math.ceil(Math.min(length, lookupBytesMax) * lookupShare);
}

const refusalTexts: ReadonlyMap<number, string> = new Map([
  [nbdErrors.EPERM, 'the export is read-only'],
  [nbdErrors.ENOSPC, 'past the end of the device'],
  [nbdErrors.EOVERFLOW, 'too long for one chunk'],
  [nbdErrors.ENOTSUP, 'not faster than writing zeroes'],
]);

function refusalText(error: NbdError): string {
  return refusalTexts.get(error) ?? 'the request is not valid here';
}
