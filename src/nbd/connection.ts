/**
 * One client of the server, from its first byte to its end: the handshake, then the transmission phase on one
 * socket. Nothing that a client does reaches another connection.
 *
 * Invariants: a device that was opened is closed exactly once. When the socket dies, what was not yet handed
 * to the device never will be: unparsed bytes are dropped and the parser is deaf; the device is closed at
 * once, with requests still in flight, so that it can drop what it has not appended. A client that leaves
 * with NBD_CMD_DISC, and a server that shuts down, answer what is in flight first. Before a client gets its
 * device, what was sent on older connections to the same export has been read: a client that gave a connection up
 * and sends its requests again on a new one never sees the old ones done after the new ones.
 */
import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { BlockDevice, ExportProvider } from '../volumes/block-device.ts';
import { encodeGreeting } from './handshake-codec.ts';
import type { NbdLimits } from './limits.ts';
import { Negotiation, type Agreement, type NegotiationStep } from './negotiation.ts';
import { OptionParser } from './option-parser.ts';
import {
  minDirectBytes,
  ReceiveBuffers,
  unpooled,
  type PayloadOwner,
  type PayloadPool,
} from './receive-buffers.ts';
import { receiveInto, type Receiver } from './receiving-socket.ts';
import { Replies } from './replies.ts';
import { ReplyWriter } from './reply-writer.ts';
import { RequestParser } from './request-parser.ts';
import { Transmission } from './transmission.ts';

export interface ConnectionContext {
  readonly exports: ExportProvider;
  readonly limits: NbdLimits;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly pool: PayloadPool;
  /** Resolves when the other connections to the export have caught up(). */
  readonly othersCaughtUp: (exportName: string) => Promise<void>;
  /** The handshake is over: this is a client with a device now. */
  readonly onClient: () => void;
  /** The socket is gone and the device is closed. */
  readonly onClosed: () => void;
}

/** How long a client may take to receive the last replies after it, or the server, said goodbye. */
const farewellMs = 10_000;
/** How long a client that can't be understood any more may go on sending into the void. */
const lingerMs = 1000;

/** More than a socket's buffers hold. */
const bufferedBytesMax = 16 * 1024 * 1024;

interface Session {
  readonly exportName: string;
  readonly transmission: Transmission;
  readonly requests: RequestParser;
}

/** Received and not yet parsed, because a limit stopped the parser. */
interface Unparsed {
  readonly chunk: Buffer;
  readonly from: number;
  readonly owner: PayloadOwner;
}

export class Connection implements Receiver {
  readonly #socket: Socket;
  readonly #context: ConnectionContext;
  readonly #writer: ReplyWriter;
  readonly #negotiation: Negotiation;
  readonly #options: OptionParser;
  #negotiating = false;
  #handshakeBudgetMs: number;
  /** Ends the wait for the client's next option. */
  #handshakeWait: AbortController | null = null;
  #logger: Logger;
  #device: BlockDevice | null = null;
  #session: Session | null = null;
  #unparsed: Unparsed | null = null;
  readonly #buffers = new ReceiveBuffers();
  /** The next bytes are received straight into a payload. */
  #direct = false;
  #finishing = false;
  #lingering = false;
  #dead = false;
  #receivedBytes = 0;

  /** `accepted` is a paused socket that nothing was read from; it belongs to the connection from now on. */
  constructor(accepted: Socket, context: ConnectionContext) {
    this.#socket = receiveInto(accepted, this);
    this.#context = context;
    this.#logger = context.logger;
    this.#writer = new ReplyWriter(
      this.#socket,
      () => this.#session?.transmission.wake(),
      (payload) => this.#device?.giveBack?.(payload),
    );
    this.#negotiation = new Negotiation(context.exports, context.logger);
    this.#options = new OptionParser(context.limits);
    this.#handshakeBudgetMs = context.limits.handshakeTimeoutMs;
  }

  start(): void {
    this.#socket.on('error', (error) => this.die('the connection failed', error));
    this.#socket.on('end', () => this.#clientEnded());
    this.#socket.on('close', () => this.die('the connection was closed'));
    this.#socket.write(encodeGreeting());
    this.#awaitClient();
    this.#socket.resume();
  }

  next(): Buffer {
    const missing = this.#session?.requests.missingPayload() ?? null;
    this.#direct = missing !== null && missing.length >= minDirectBytes;
    return missing !== null && this.#direct ? missing : this.#buffers.next();
  }

  /** The export that the client uses; null before and after that. */
  get exportName(): string | null {
    return this.#isOver() ? null : (this.#session?.exportName ?? null);
  }

  /**
   * Resolves when what the client had sent by now was read. Not for a connection that waits at a limit: that goes on
   * only when a reply could be sent, see Transmission.wake.
   */
  async caughtUp(): Promise<void> {
    const endBytes = this.#receivedBytes + bufferedBytesMax;
    let beforeBytes: number;
    do {
      beforeBytes = this.#receivedBytes;
      // The first turn may end without a look at the sockets, the second can't.
      await nextTurn();
      await nextTurn();
      if (this.#isOver() || this.#hasUnparsed()) return;
    } while (beforeBytes < this.#receivedBytes && this.#receivedBytes < endBytes);
  }

  receive(chunk: Buffer, lent: boolean): void {
    this.#receivedBytes += chunk.length;
    if (lent && !this.#direct) this.#buffers.received(chunk.length);
    if (this.#isOver()) return;
    if (this.#session !== null) {
      this.#parse(this.#session, { chunk, from: 0, owner: lent ? this.#buffers.owner : unpooled });
      return;
    }
    // The handshake keeps what it was given, and is short.
    this.#options.push(Buffer.from(chunk));
    if (!this.#negotiating) void this.#negotiate();
  }

  /**
   * Answers what is in flight and closes; a client that is still negotiating is dropped. `lingerMs` keeps
   * reading (and discarding) for a while, so that a client that is still sending gets to see its reply.
   */
  async finish(why: string, lingerMs = 0): Promise<void> {
    const transmission = this.#session?.transmission;
    if (this.#dead || this.#finishing) return;
    if (transmission === undefined) {
      this.die(why);
      return;
    }
    this.#finishing = true;
    transmission.stop();
    this.#unparsed = null;
    await transmission.idle();
    this.#writer.flush();
    this.#endSocket(why, lingerMs);
  }

  /** Drops the connection at once. */
  die(why: string, error?: unknown): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#handshakeWait?.abort();
    this.#session?.transmission.stop();
    this.#unparsed = null;
    this.#writer.close();
    this.#socket.destroy();
    this.#session?.requests.end();
    const failures = this.#session?.transmission.failures ?? 0;
    const fields = error === undefined ? { why, failures } : { why, failures, error };
    if (this.#device === null) this.#logger.debug('nbd connection ended', fields);
    else this.#logger.info('nbd client left', fields);
    // A device that is being opened right now is closed at the end of the negotiation.
    if (!this.#negotiating) void this.#closeDevice();
  }

  /** Without NBD_CMD_DISC before it, the end of the stream is the death of the client. */
  #clientEnded(): void {
    if (!this.#finishing || this.#lingering) this.die('the client closed the connection');
  }

  async #closeDevice(): Promise<void> {
    const device = this.#device;
    this.#device = null;
    try {
      await device?.close();
    } catch (error) {
      this.#logger.error('device close failed', { error });
    }
    this.#context.onClosed();
  }

  /** Never rejects. */
  async #negotiate(): Promise<void> {
    this.#negotiating = true;
    try {
      await this.#handleOptions();
    } catch (error) {
      this.die('the handshake failed', error);
    }
    this.#negotiating = false;
    if (this.#dead) await this.#closeDevice();
  }

  /** Handles the options that have come, one after the other. */
  async #handleOptions(): Promise<void> {
    for (let event = this.#options.next(); event !== null; event = this.#options.next()) {
      this.#handshakeWait?.abort();
      this.#socket.pause();
      const step = await this.#negotiation.handle(event);
      if (!(await this.#follow(step))) return;
    }
    if (this.#handshakeWait?.signal.aborted === true) this.#awaitClient();
    this.#socket.resume();
  }

  /** Sends the answer; true when more options may follow. */
  async #follow(step: NegotiationStep): Promise<boolean> {
    if (step.next === 'transmission') {
      await this.#context.othersCaughtUp(step.agreement.exportName);
      if (this.#dead) await step.agreement.device.close();
      else this.#begin(step.agreement, step.send);
      return false;
    }
    if (this.#dead) return false;
    for (const bytes of step.send) this.#socket.write(bytes);
    if (step.next === 'close') {
      this.#endSocket(step.why, 0);
      return false;
    }
    await this.#backlogTaken();
    return !this.#isOver();
  }

  /** A client that asks and never reads waits here, until its time is up. */
  async #backlogTaken(): Promise<void> {
    if (this.#socket.writableLength < this.#context.limits.optionBytes) return;
    this.#awaitClient();
    const socket = this.#socket;
    await new Promise<void>((resolve) => {
      const taken = (): void => {
        socket.removeListener('drain', taken);
        socket.removeListener('close', taken);
        resolve();
      };
      socket.on('drain', taken);
      socket.on('close', taken);
    });
    this.#handshakeWait?.abort();
  }

  /** Starts the clock on the client: its share of the handshake has a limit, ours has not. */
  #awaitClient(): void {
    const { clock } = this.#context;
    const wait = new AbortController();
    const startMs = clock.monotonicMs();
    this.#handshakeWait = wait;
    wait.signal.addEventListener('abort', () => {
      this.#handshakeBudgetMs -= clock.monotonicMs() - startMs;
    });
    clock.sleep(Math.max(0, this.#handshakeBudgetMs), wait.signal).then(
      () => this.die('the handshake took too long'),
      // The client did its part in time: the aborted sleep is what was wanted.
      () => undefined,
    );
  }

  #begin(agreement: Agreement, send: Buffer[]): void {
    const { limits, onClient } = this.#context;
    const { device, exportName } = agreement;
    this.#device = device;
    this.#logger = this.#logger.child({ exportName });
    for (const bytes of send) this.#socket.write(bytes);
    const replies = new Replies(this.#writer, agreement.structuredReplies);
    const transmission = new Transmission(agreement, replies, {
      limits,
      logger: this.#logger,
      exhausted: () => this.#buffers.exhausted,
      events: {
        resume: () => this.#resume(),
        finish: (why) => void this.finish(why),
        refuse: (why) => void this.finish(why, lingerMs),
      },
    });
    const requests = new RequestParser(transmission, this.#context.pool);
    const session = { exportName, transmission, requests };
    this.#session = session;
    device.revoked.addEventListener('abort', () => this.die('the export was revoked'), {
      once: true,
    });
    onClient();
    this.#logger.info('nbd client connected', { readOnly: device.readOnly });
    if (device.revoked.aborted) {
      this.die('the export was revoked');
      return;
    }
    const rest = this.#options.rest();
    if (rest.length > 0) this.#parse(session, { chunk: rest, from: 0, owner: unpooled });
    if (this.#unparsed === null) this.#socket.resume();
  }

  /** Parses until the end of the chunk or until a limit stops the parser: then the socket waits. */
  #parse(session: Session, { chunk, from, owner }: Unparsed): void {
    let at = from;
    try {
      while (at < chunk.length && !session.transmission.isFull() && !this.#isOver()) {
        at = session.requests.parse(chunk, at, owner);
      }
    } catch (error) {
      this.die('the client broke the protocol', error);
    }
    if (this.#isOver()) return;
    if (at < chunk.length || session.transmission.isFull()) {
      owner.retain();
      this.#unparsed = { chunk, from: at, owner };
      this.#socket.pause();
    } else {
      this.#unparsed = null;
    }
  }

  #resume(): void {
    const unparsed = this.#unparsed;
    if (unparsed === null || this.#session === null || this.#isOver()) return;
    this.#parse(this.#session, unparsed);
    unparsed.owner.release();
    if (!this.#hasUnparsed()) this.#socket.resume();
  }

  #hasUnparsed(): boolean {
    return this.#unparsed !== null;
  }

  /** Nothing that comes from the client matters any more. */
  #isOver(): boolean {
    return this.#dead || this.#finishing;
  }

  /** Sends what is left and closes; a client that does not take it in time is dropped. */
  #endSocket(why: string, lingerMs: number): void {
    if (this.#dead) return;
    this.#finishing = true;
    this.#lingering = lingerMs > 0;
    const socket = this.#socket;
    if (this.#lingering) socket.end();
    else socket.end(() => this.die(why));
    // What the client still sends is discarded, and its end is seen.
    socket.resume();
    const closed = new AbortController();
    socket.once('close', () => closed.abort());
    this.#context.clock.sleep(this.#lingering ? lingerMs : farewellMs, closed.signal).then(
      () => this.die(why),
      // Closed in time: the aborted sleep is what was wanted.
      () => undefined,
    );
  }
}
