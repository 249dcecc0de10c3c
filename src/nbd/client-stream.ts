/**
 * The client's socket: as a stream for the handshake, afterwards as events for whoever takes it over. What is not
 * asked for during the handshake is kept, but not without limit.
 */
import { createConnection, type Socket } from 'node:net';
import { VolumeError } from '../volumes/errors.ts';
import { ByteQueue } from './byte-queue.ts';
import type { HandshakeStream } from './client-handshake.ts';
import type { NbdAddress } from './uri.ts';

/** More than any answer that the handshake waits for. */
const maxQueuedBytes = 1024 * 1024;

export interface StreamOwner {
  data(chunk: Buffer): void;
  lost(error: VolumeError): void;
}

/** A socket that connects, or fails, later. */
export function connectSocket(address: NbdAddress): Socket {
  const socket = createConnection(
    address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port },
  );
  return socket.setNoDelay(true);
}

export class ClientStream implements HandshakeStream {
  readonly socket: Socket;
  readonly #what: string;
  readonly #queue = new ByteQueue();
  #owner: StreamOwner | null = null;
  #failure: VolumeError | null = null;
  #wake: () => void = () => undefined;

  /** The socket is the stream's from now on. */
  constructor(socket: Socket, what: string) {
    this.#what = what;
    this.socket = socket;
    this.socket.on('data', (chunk: Buffer) => {
      if (this.#owner !== null) this.#owner.data(chunk);
      else this.#keep(chunk);
    });
    this.socket.on('error', (cause) => this.fail(this.#lost(cause.message, cause)));
    this.socket.on('close', () => this.fail(this.#lost('the server closed the connection')));
  }

  /** What has arrived and nobody asked for yet. */
  get queuedBytes(): number {
    return this.#queue.length;
  }

  async read(count: number): Promise<Buffer> {
    while (this.#queue.length < count) {
      if (this.#failure !== null) throw this.#failure;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return this.#queue.take(count);
  }

  write(bytes: Buffer): void {
    this.socket.write(bytes);
  }

  /** Ends the stream: whoever reads or waits gets `error`. */
  fail(error: VolumeError): void {
    this.socket.destroy();
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#wake();
    this.#owner?.lost(error);
  }

  handOver(owner: StreamOwner): void {
    this.#owner = owner;
    if (this.#failure !== null) owner.lost(this.#failure);
    else if (this.#queue.length > 0) owner.data(this.#queue.take(this.#queue.length));
  }

  #keep(chunk: Buffer): void {
    this.#queue.push(chunk);
    if (this.#queue.length > maxQueuedBytes) {
      this.fail(new VolumeError('PROTOCOL_ERROR', `${this.#what}: the server sends too much`));
    }
    this.#wake();
  }

  #lost(why: string, cause?: unknown): VolumeError {
    return new VolumeError('UNAVAILABLE', `${this.#what}: ${why}`, { cause });
  }
}
