/**
 * An NBD client: one connection to one export, many requests in flight. It never reconnects: when the connection
 * is lost, everything that waits is UNAVAILABLE, and so is every later call.
 */
import type { Socket } from 'node:net';
import { systemClock, type Clock } from '../base/clock.ts';
import { toVolumeError, VolumeError } from '../volumes/errors.ts';
import { negotiate, type ClientAgreement } from './client-handshake.ts';
import { ClientStream, connectSocket } from './client-stream.ts';
import { PendingRequests, type Answer, type StatusExtent } from './pending-requests.ts';
import { commandFlags, commands, transmissionFlags } from './protocol.ts';
import { ReplyParser } from './reply-parser.ts';
import { encodeRequest } from './transmission-codec.ts';
import { formatNbdAddress, parseNbdUri, type NbdUri } from './uri.ts';

export interface ConnectOptions {
  /** Limit for connecting and the handshake together. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  /** More requests at a time are LIMIT_REACHED. */
  readonly maxInFlight?: number;
}

export interface RequestOptions {
  /** Stops waiting with UNAVAILABLE; the server may still carry the request out. */
  readonly signal?: AbortSignal;
}

export interface ChangeOptions extends RequestOptions {
  /** Resolve only when the change survives a power cut. */
  readonly fua?: boolean;
}

const defaultTimeoutMs = 10_000;
const defaultMaxInFlight = 1024;
const goodbyeMs = 5000;

/** Connects to `nbd+unix:///NAME?socket=PATH` or `nbd://HOST:PORT/NAME` and opens the export. */
export async function connectNbd(
  uri: string | NbdUri,
  options: ConnectOptions = {},
): Promise<NbdClient> {
  const target = typeof uri === 'string' ? parseNbdUri(uri) : uri;
  const what = `connect to NBD server ${formatNbdAddress(target.address)}`;
  const stream = new ClientStream(connectSocket(target.address), what);
  const { clock = systemClock, timeoutMs = defaultTimeoutMs, signal } = options;
  const settled = new AbortController();
  const onAbort = (): void => {
    stream.fail(new VolumeError('UNAVAILABLE', `${what}: aborted`, { cause: signal?.reason }));
  };
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  clock.sleep(timeoutMs, settled.signal).then(
    () => stream.fail(new VolumeError('UNAVAILABLE', `${what}: no answer in ${timeoutMs} ms`)),
    // Connected, or failed otherwise, in time.
    () => undefined,
  );
  try {
    const agreement = await negotiate(stream, target.exportName);
    return new NbdClient(stream, agreement, { clock, what, ...options });
  } catch (error) {
    const failure = toVolumeError(error, what, 'UNAVAILABLE');
    stream.fail(failure);
    throw failure;
  } finally {
    settled.abort();
    signal?.removeEventListener('abort', onAbort);
  }
}

interface ClientContext {
  readonly clock: Clock;
  readonly what: string;
  readonly maxInFlight?: number;
}

export class NbdClient {
  readonly agreement: ClientAgreement;
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #what: string;
  readonly #maxInFlight: number;
  readonly #pending: PendingRequests;
  #failure: VolumeError | null = null;
  #corked = false;
  readonly #ended: Promise<void>;

  constructor(stream: ClientStream, agreement: ClientAgreement, context: ClientContext) {
    this.agreement = agreement;
    this.#socket = stream.socket;
    this.#clock = context.clock;
    this.#what = context.what;
    this.#maxInFlight = context.maxInFlight ?? defaultMaxInFlight;
    this.#pending = new PendingRequests(agreement.allocationContextId);
    const parser = new ReplyParser(this.#pending, agreement.structuredReplies);
    this.#ended = new Promise((resolve) => this.#socket.once('close', () => resolve()));
    stream.handOver({
      data: (chunk) => this.#receive(parser, chunk),
      lost: (error) => this.#fail(error),
    });
  }

  get sizeBytes(): number {
    return this.agreement.sizeBytes;
  }

  get readOnly(): boolean {
    return (this.agreement.transmissionFlags & transmissionFlags.READ_ONLY) !== 0;
  }

  /** Why the connection is gone; null while it works. */
  get failure(): VolumeError | null {
    return this.#failure;
  }

  /** Resolves when the connection is gone. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /** `dontFragment` asks for one chunk (needs structured replies). */
  async read(
    offset: number,
    length: number,
    options: RequestOptions & { dontFragment?: boolean } = {},
  ): Promise<Buffer> {
    const flags = options.dontFragment === true ? commandFlags.DF : 0;
    const answer = await this.#request({ command: commands.READ, flags, offset, length }, options);
    return answer.data;
  }

  /** `data` must stay unchanged until the promise settles. */
  async write(offset: number, data: Buffer, options: ChangeOptions = {}): Promise<void> {
    const request = {
      command: commands.WRITE,
      flags: fuaFlag(options),
      offset,
      length: data.length,
    };
    await this.#request(request, options, data);
  }

  async flush(options: RequestOptions = {}): Promise<void> {
    await this.#request({ command: commands.FLUSH, flags: 0, offset: 0, length: 0 }, options);
  }

  async trim(offset: number, length: number, options: ChangeOptions = {}): Promise<void> {
    const request = { command: commands.TRIM, flags: fuaFlag(options), offset, length };
    await this.#request(request, options);
  }

  /** `allocate`: NO_HOLE. `fast`: NOT_CAPABLE rather than being as slow as a write. */
  async writeZeroes(
    offset: number,
    length: number,
    options: ChangeOptions & { allocate?: boolean; fast?: boolean } = {},
  ): Promise<void> {
    const flags =
      fuaFlag(options) |
      (options.allocate === true ? commandFlags.NO_HOLE : 0) |
      (options.fast === true ? commandFlags.FAST_ZERO : 0);
    await this.#request({ command: commands.WRITE_ZEROES, flags, offset, length }, options);
  }

  async cache(offset: number, length: number, options: RequestOptions = {}): Promise<void> {
    await this.#request({ command: commands.CACHE, flags: 0, offset, length }, options);
  }

  /** Extents from `offset` on: at least one, perhaps fewer than `length` bytes. `one`: exactly one. */
  async blockStatus(
    offset: number,
    length: number,
    options: RequestOptions & { one?: boolean } = {},
  ): Promise<StatusExtent[]> {
    if (this.agreement.allocationContextId === null) {
      throw new VolumeError('NOT_CAPABLE', `${this.#what}: the server has no base:allocation`);
    }
    const flags = options.one === true ? commandFlags.REQ_ONE : 0;
    const request = { command: commands.BLOCK_STATUS, flags, offset, length };
    const { extents } = await this.#request(request, options);
    return extents;
  }

  /** Says goodbye (NBD_CMD_DISC) and resolves when the connection is gone; bounded in time. Idempotent. */
  async disconnect(): Promise<void> {
    if (this.#failure === null) {
      const request = { command: commands.DISC, flags: 0, offset: 0, length: 0 };
      this.#socket.end(encodeRequest({ ...request, cookieHigh: 0, cookieLow: 0 }));
      this.#fail(new VolumeError('UNAVAILABLE', `${this.#what}: disconnected`), false);
    }
    const gone = new AbortController();
    this.#clock.sleep(goodbyeMs, gone.signal).then(
      () => this.#socket.destroy(),
      // Gone in time.
      () => undefined,
    );
    await this.#ended;
    gone.abort();
  }

  /** Drops the connection; what waits is UNAVAILABLE. */
  destroy(): void {
    this.#fail(new VolumeError('UNAVAILABLE', `${this.#what}: dropped`));
  }

  #request(
    request: { command: number; flags: number; offset: number; length: number },
    { signal }: RequestOptions,
    payload: Buffer | null = null,
  ): Promise<Answer> {
    const refusal = this.#refusal(request, signal);
    if (refusal !== null) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      const onAbort = (): void => reject(this.#aborted(signal));
      signal?.addEventListener('abort', onAbort, { once: true });
      const cookie = this.#pending.add({
        what: `NBD ${nameOf(request.command)} at ${request.offset}+${request.length}`,
        ...request,
        settle: (error, answer) => {
          signal?.removeEventListener('abort', onAbort);
          if (error === null) resolve(answer);
          else reject(error);
        },
      });
      this.#send(encodeRequest({ ...request, ...cookie }), payload);
    });
  }

  #refusal(
    request: { command: number; offset: number; length: number },
    signal: AbortSignal | undefined,
  ): VolumeError | null {
    if (this.#failure !== null) return this.#failure;
    if (signal?.aborted === true) return this.#aborted(signal);
    const { command, offset, length } = request;
    const hasPayload = command === commands.READ || command === commands.WRITE;
    const longest = hasPayload ? this.agreement.maximumPayloadBytes : 2 ** 32 - 1;
    const valid = isSize(offset) && isSize(length) && length <= longest;
    if (!valid) {
      const why = `${offset}+${length} bytes are not possible`;
      return new VolumeError('INVALID_ARGUMENT', `NBD ${nameOf(command)}: ${why}`);
    }
    if (this.#pending.size < this.#maxInFlight) return null;
    const why = `${this.#maxInFlight} requests are in flight`;
    return new VolumeError('LIMIT_REACHED', `NBD ${nameOf(command)}: ${why}`);
  }

  #aborted(signal: AbortSignal | undefined): VolumeError {
    const cause: unknown = signal?.reason;
    return new VolumeError('UNAVAILABLE', `${this.#what}: the wait was aborted`, { cause });
  }

  /** Requests of one turn leave with one write to the socket. */
  #send(header: Buffer, payload: Buffer | null): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      queueMicrotask(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(header);
    if (payload !== null && payload.length > 0) this.#socket.write(payload);
  }

  #receive(parser: ReplyParser, chunk: Buffer): void {
    if (this.#failure !== null) return;
    try {
      parser.parse(chunk);
    } catch (error) {
      this.#fail(toVolumeError(error, this.#what));
    }
  }

  #fail(error: VolumeError, destroy = true): void {
    if (destroy) this.#socket.destroy();
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#pending.failAll(error);
  }
}

function fuaFlag(options: ChangeOptions): number {
  return options.fua === true ? commandFlags.FUA : 0;
}

function isSize(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function nameOf(command: number): string {
  return (
    Object.entries(commands).find(([, value]) => value === command)?.[0] ?? `command ${command}`
  );
}
