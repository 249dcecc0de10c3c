/**
 * Sockets of generic netlink: one that asks the kernel and waits for its answer, and one that hears events.
 *
 * The kernel does the work of a command inside of the call that sends it, and that call can block for as long as the
 * work does: it runs on another thread, one at a time, and cannot be ended. Who asked waits no longer than his limit;
 * the answer that comes later is recognised by its sequence number and dropped.
 */
import { getSystemErrorName } from 'node:util';
import { assert } from '../../../base/assert.ts';
import type { Clock } from '../../../base/clock.ts';
import {
  addMembership,
  closeDescriptor,
  openNetlink,
  receiveNonBlocking,
  sendNetlink,
  setReceiveBuffer,
  socketErrno,
} from '../../../base/ffi-sockets.ts';
import { Mutex } from '../../../base/mutex.ts';
import { VolumeError } from '../../../volumes/errors.ts';
import { abandonAfter } from '../../waiting.ts';
import {
  decodeErrno,
  decodeMessages,
  encodeMessage,
  messageFlags,
  messageTypes,
  type NetlinkMessage,
} from './netlink-messages.ts';

/** The list of the devices is the largest answer: an attribute of at most 64 KiB. */
const bufferBytes = 128 * 1024;
const eventBufferBytes = 1024 * 1024;
const eventPollMs = 100;
/** Of one turn, so that a flood of events does not hold up everything else. */
const eventsPerPoll = 64;

/** The kernel refused a command. */
export class NetlinkError extends Error {
  override readonly name = 'NetlinkError';
  /** Such as EINVAL. */
  readonly code: string;

  constructor(errno: number) {
    const code = getSystemErrorName(-errno);
    super(`the kernel answers ${code}`);
    this.code = code;
  }
}

export class NetlinkSocket {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #buffer = Buffer.allocUnsafeSlow(bufferBytes);
  readonly #turns = new Mutex();
  #fd: number;
  #sequence = 0;
  #isClosed = false;
  #isSending = false;

  /** NOT_CAPABLE where there is no netlink. */
  constructor(options: { clock: Clock; timeoutMs: number }) {
    this.#clock = options.clock;
    this.#timeoutMs = options.timeoutMs;
    this.#fd = open(bufferBytes);
  }

  /**
   * Sends one request and resolves to the payloads of its answers. Rejects with NetlinkError when the kernel refuses,
   * and with UNAVAILABLE when nothing came in time: whether the work is or will be done is then unknown, unless
   * earlier requests kept this one from being sent.
   */
  async request(type: number, payload: Buffer, what: string): Promise<Buffer[]> {
    let isLate = false;
    const work = this.#turns.run(async () => {
      if (this.#isClosed) throw new VolumeError('SHUTTING_DOWN', `${what}: netlink is closed`);
      return isLate ? [] : await this.#exchange(type, payload);
    });
    const timeoutMs = this.#timeoutMs;
    try {
      return await abandonAfter(this.#clock, { timeoutMs, what }, work);
    } finally {
      isLate = true;
    }
  }

  async #exchange(type: number, payload: Buffer): Promise<Buffer[]> {
    const sequence = (this.#sequence = (this.#sequence + 1) >>> 0 || 1);
    const flags = messageFlags.REQUEST | messageFlags.ACK;
    this.#isSending = true;
    const sent = await sendNetlink(this.#fd, encodeMessage({ type, flags, sequence, payload }));
    this.#isSending = false;
    try {
      if (sent < 0) throw failedCall('send to the kernel', sent);
      return this.#answers(sequence);
    } finally {
      if (this.#isClosed) this.#release();
    }
  }

  /** The kernel has put all of them into the socket before the call that sent the request has returned. */
  #answers(sequence: number): Buffer[] {
    const payloads: Buffer[] = [];
    for (;;) {
      const messages = this.#receive();
      for (const message of messages) {
        if (message.sequence !== sequence) continue;
        if (message.type === messageTypes.DONE) return payloads;
        if (message.type === messageTypes.ERROR) {
          const errno = decodeErrno(message.payload);
          if (errno === 0) return payloads;
          throw errno === null ? malformed() : new NetlinkError(errno);
        }
        payloads.push(Buffer.from(message.payload));
      }
    }
  }

  #receive(): NetlinkMessage[] {
    const count = receiveNonBlocking(this.#fd, this.#buffer);
    if (count < 0) throw failedCall('receive from the kernel', count);
    if (count > this.#buffer.length) throw malformed();
    return decodeMessages(this.#buffer.subarray(0, count)) ?? fail(malformed());
  }

  /** The descriptor stays open until a call that still runs has ended. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (!this.#isSending) this.#release();
  }

  #release(): void {
    assert(this.#fd >= 0, 'closed once');
    closeDescriptor(this.#fd);
    this.#fd = -1;
  }
}

/** Hears the events of one multicast group from now on, by looking ten times a second. */
export class NetlinkEvents {
  readonly #clock: Clock;
  readonly #fd: number;
  readonly #stop = new AbortController();
  readonly #buffer = Buffer.allocUnsafeSlow(bufferBytes);
  readonly #onEvent: (message: NetlinkMessage | null) => void;
  #isClosed = false;

  /** `onEvent` is given null when events were lost. It must not throw. */
  constructor(options: {
    clock: Clock;
    group: number;
    onEvent: (message: NetlinkMessage | null) => void;
  }) {
    this.#clock = options.clock;
    this.#onEvent = options.onEvent;
    this.#fd = open(eventBufferBytes);
    const joined = addMembership(this.#fd, options.group);
    if (joined < 0) {
      closeDescriptor(this.#fd);
      throw failedCall('join the multicast group', joined);
    }
    void this.#poll();
  }

  async #poll(): Promise<void> {
    const { signal } = this.#stop;
    while (!this.#isClosed) {
      for (let count = 0; count < eventsPerPoll && this.#receive(); count++);
      try {
        await this.#clock.sleep(eventPollMs, signal);
      } catch {
        return; // closed
      }
    }
  }

  /** False when there was nothing. */
  #receive(): boolean {
    if (this.#isClosed) return false;
    const count = receiveNonBlocking(this.#fd, this.#buffer);
    if (count === -socketErrno.EAGAIN || count === -socketErrno.EINTR) return false;
    const isWhole = count >= 0 && count <= this.#buffer.length;
    const messages = isWhole ? decodeMessages(this.#buffer.subarray(0, count)) : null;
    // ENOBUFS: the kernel had more events than the socket holds. Anything else that is no event tells no more.
    if (messages === null) this.#onEvent(null);
    else for (const message of messages) this.#onEvent(message);
    return true;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    closeDescriptor(this.#fd);
    this.#stop.abort();
  }
}

function open(receiveBytes: number): number {
  const fd = openNetlink();
  if (fd < 0) throw failedCall('open a netlink socket', fd);
  // A smaller buffer than asked for is no reason to stop.
  setReceiveBuffer(fd, receiveBytes);
  return fd;
}

function failedCall(what: string, result: number): VolumeError {
  const name = getSystemErrorName(result);
  const isMissing = ['ENOSYS', 'EAFNOSUPPORT', 'EPROTONOSUPPORT'].includes(name);
  return new VolumeError(isMissing ? 'NOT_CAPABLE' : 'INTERNAL', `${what}: ${name}`);
}

function malformed(): VolumeError {
  return new VolumeError('PROTOCOL_ERROR', 'netlink: the answer of the kernel is malformed');
}

function fail(error: Error): never {
  throw error;
}
