/**
 * An NBD server on any number of unix sockets and loopback TCP ports. What it serves comes from an
 * ExportProvider; each connection opens its own device.
 */
import { chmod, lstat, mkdir, unlink } from 'node:fs/promises';
import { createConnection, createServer, isIPv6, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { systemClock, type Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { ExportProvider } from '../volumes/block-device.ts';
import { VolumeError, toVolumeError } from '../volumes/errors.ts';
import { Connection } from './connection.ts';
import { defaultLimits, type NbdLimits } from './limits.ts';
import { PayloadPool } from './receive-buffers.ts';
import { formatNbdAddress, type NbdAddress } from './uri.ts';

export interface NbdServerOptions {
  readonly exports: ExportProvider;
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly limits?: Partial<NbdLimits>;
  /** Called each time the number of clients falls to zero. */
  readonly onLastClientLeft?: () => void;
}

export interface CloseOptions {
  /** How long clients may go on working before they are asked to go. 0: not at all. */
  readonly graceMs: number;
  /** How long requests in flight and their replies may take after that; then connections are cut. */
  readonly drainMs: number;
}

/** Payload buffers kept for the next payloads, over all connections. */
const pooledBytes = 16 * 1024 * 1024;

export class NbdServer {
  readonly #exports: ExportProvider;
  readonly #logger: Logger;
  readonly #clock: Clock;
  readonly #limits: NbdLimits;
  readonly #onLastClientLeft: () => void;
  readonly #pool = new PayloadPool(pooledBytes);
  readonly #listeners = new Map<Server, NbdAddress>();
  readonly #connections = new Set<Connection>();
  readonly #clients = new Set<Connection>();
  #whenChanged: (() => void)[] = [];
  #closing = false;
  #refusing = false;

  constructor(options: NbdServerOptions) {
    this.#exports = options.exports;
    this.#logger = options.logger.child({ component: 'nbd' });
    this.#clock = options.clock ?? systemClock;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#onLastClientLeft = options.onLastClientLeft ?? (() => undefined);
  }

  /** Clients past their handshake whose device is not closed yet. */
  get clientCount(): number {
    return this.#clients.size;
  }

  /** All connections, those that still negotiate included. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Long payloads that are being received or written. */
  get payloadCount(): number {
    return this.#pool.takenCount;
  }

  /** Where the server listens: with the port that the system chose for port 0. */
  get addresses(): NbdAddress[] {
    return [...this.#listeners.values()];
  }

  /**
   * Starts to accept on one more address and returns it with its real port. A unix socket's folder is made; one that a dead
   * server left behind is replaced; one with a living server is ALREADY_EXISTS. TCP is for loopback only,
   * as there is no TLS: INVALID_ARGUMENT otherwise.
   */
  async listen(address: NbdAddress): Promise<NbdAddress> {
    if (this.#closing) throw new VolumeError('SHUTTING_DOWN', 'listen: the server is closing');
    if (address.kind === 'unix') {
      await mkdir(dirname(address.path), { recursive: true, mode: 0o700 });
      await removeStaleSocket(address.path);
    } else requireLoopback(address);
    const server = createServer(
      { noDelay: true, keepAlive: true, allowHalfOpen: true, pauseOnConnect: true },
      (socket) => {
        this.#accept(socket);
      },
    );
    try {
      await listenOn(server, address);
      // Whoever opens the socket owns the volumes: not for other users.
      if (address.kind === 'unix') await chmod(address.path, 0o600);
    } catch (error) {
      server.close();
      throw toVolumeError(error, `listen on ${formatNbdAddress(address)}`, 'UNAVAILABLE');
    }
    server.on('error', (error) => this.#logger.error('nbd listener failed', { error }));
    const bound = boundAddress(server, address);
    this.#listeners.set(server, bound);
    this.#logger.info('nbd listening', { address: formatNbdAddress(bound) });
    return bound;
  }

  /** Stops accepting; clients that are connected stay. Idempotent. */
  stopListening(): void {
    this.#closing = true;
    for (const server of this.#listeners.keys()) server.close();
    this.#listeners.clear();
  }

  /**
   * Stops accepting, lets clients leave by themselves for `graceMs`, then answers what is in flight for at most
   * `drainMs` and cuts whatever is left. Resolves when every connection is gone and its device closed, or,
   * should a device's close hang, after another `drainMs`.
   */
  async close(options: CloseOptions): Promise<void> {
    this.stopListening();
    for (const connection of this.#connections) {
      if (!this.#clients.has(connection)) connection.die('the server shuts down');
    }
    await this.#connectionsGone(options.graceMs);
    this.closeConnections();
    await this.#connectionsGone(options.drainMs);
    for (const connection of this.#connections) connection.die('the server shuts down');
    await this.#connectionsGone(options.drainMs);
    if (this.#connections.size > 0) {
      this.#logger.warn('nbd devices still open', { connections: this.#connections.size });
    }
  }

  /** Answers what is in flight on every connection and closes it. Accepting goes on. */
  closeConnections(): void {
    for (const connection of this.#connections) void connection.finish('the server shuts down');
  }

  #accept(socket: Socket): void {
    if (this.#closing || this.#connections.size >= this.#limits.connections) {
      if (!this.#refusing)
        this.#logger.warn('nbd connections refused', { limit: this.#limits.connections });
      this.#refusing = true;
      socket.destroy();
      return;
    }
    this.#refusing = false;
    const connection: Connection = new Connection(socket, {
      exports: this.#exports,
      limits: this.#limits,
      logger: this.#logger,
      clock: this.#clock,
      pool: this.#pool,
      othersCaughtUp: (exportName) => this.#caughtUp(exportName),
      onClient: () => this.#clients.add(connection),
      onClosed: () => this.#forget(connection),
    });
    this.#connections.add(connection);
    connection.start();
  }

  async #caughtUp(exportName: string): Promise<void> {
    const clients = [...this.#clients].filter((client) => client.exportName === exportName);
    await Promise.all(clients.map((client) => client.caughtUp()));
  }

  #forget(connection: Connection): void {
    this.#connections.delete(connection);
    const wasClient = this.#clients.delete(connection);
    if (wasClient && this.#clients.size === 0) this.#onLastClientLeft();
    if (this.#connections.size === 0) {
      for (const resolve of this.#whenChanged.splice(0)) resolve();
    }
  }

  async #connectionsGone(timeoutMs: number): Promise<void> {
    if (this.#connections.size === 0 || timeoutMs <= 0) return;
    const gone = new AbortController();
    this.#whenChanged.push(() => gone.abort());
    // Rejects as soon as the last connection is gone, which is what is waited for.
    await this.#clock.sleep(timeoutMs, gone.signal).catch(() => undefined);
  }
}

function listenOn(server: Server, address: NbdAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(
      address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port },
      () => {
        server.removeListener('error', reject);
        resolve();
      },
    );
  });
}

function boundAddress(server: Server, wanted: NbdAddress): NbdAddress {
  const bound = server.address();
  if (wanted.kind === 'unix' || bound === null || typeof bound === 'string') return wanted;
  return { ...wanted, port: bound.port };
}

function requireLoopback(address: NbdAddress & { kind: 'tcp' }): void {
  const { host } = address;
  const loopback = isIPv6(host)
    ? host === '::1'
    : host === 'localhost' || /^127(\.\d{1,3}){3}$/.test(host);
  if (loopback) return;
  const where = formatNbdAddress(address);
  throw new VolumeError(
    'INVALID_ARGUMENT',
    `listen on ${where}: without TLS only loopback is allowed`,
  );
}

/** Removes the socket file of a server that is gone. Any other file stays, and makes listening fail. */
async function removeStaleSocket(path: string): Promise<void> {
  const stats = await lstat(path).catch(() => null);
  if (stats?.isSocket() !== true) return;
  const state = await probeSocket(path);
  if (state === 'alive') {
    const why = 'another server is listening there';
    throw new VolumeError('ALREADY_EXISTS', `listen on unix:${path}: ${why}`);
  }
  if (state === 'stale') await unlink(path);
}

/** Whether a server accepts connections on the socket; connecting to a unix socket never takes long. */
function probeSocket(path: string): Promise<'stale' | 'alive' | 'unknown'> {
  return new Promise((resolve) => {
    const socket = createConnection({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve('alive');
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code === 'ECONNREFUSED' ? 'stale' : 'unknown');
    });
  });
}
