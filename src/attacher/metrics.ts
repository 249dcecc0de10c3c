/**
 * What the attacher counts for Prometheus, and the one page that shows it: GET /metrics over plain HTTP. Whoever counts
 * sees the interface alone. The page is for a scraper on this machine: few connections, short limits, no other path.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { describeError, type Logger } from '../base/logger.ts';
import { deviceStates, type DeviceState } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';

export interface AttacherMetrics {
  /** A device works again, `pauseMs` after its trouble was noticed. */
  healed(pauseMs: number): void;
  /** One attempt to heal a device did not help. */
  healFailed(): void;
  /** A device was given up: its I/O fails from now on. */
  gaveUp(): void;
  /** How many devices there are in each state, all told. */
  devices(counts: Readonly<Record<DeviceState, number>>): void;
}

export const noMetrics: AttacherMetrics = {
  healed: () => undefined,
  healFailed: () => undefined,
  gaveUp: () => undefined,
  devices: () => undefined,
};

/** From what nobody notices to the longest wait that is usual (3600 s). */
const pauseBucketsSeconds = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600];

/** A registry of its own, so that two in one process do not meet. */
export class PrometheusMetrics implements AttacherMetrics {
  readonly registry = new Registry();
  readonly #devices: Gauge<'state'>;
  readonly #heals: Counter<'result'>;
  readonly #failed: Counter;
  readonly #pause: Histogram;

  constructor(about: { strategy: string; driver: string }) {
    const registers = [this.registry];
    new Gauge({
      name: 'volumedriver_attacher_info',
      help: 'Always 1; the labels say how new devices are made and for which CSI driver.',
      labelNames: ['strategy', 'driver'],
      registers,
    }).set(about, 1);
    this.#devices = new Gauge({
      name: 'volumedriver_attacher_devices',
      help: 'Block devices of volumes on this node by state.',
      labelNames: ['state'],
      registers,
    });
    this.#heals = new Counter({
      name: 'volumedriver_attacher_heals_total',
      help: 'Attempts to make a device work again.',
      labelNames: ['result'],
      registers,
    });
    this.#failed = new Counter({
      name: 'volumedriver_attacher_failed_total',
      help: 'Devices that were given up: their I/O fails.',
      registers,
    });
    this.#pause = new Histogram({
      name: 'volumedriver_attacher_pause_seconds',
      help: 'From the moment that trouble with a device was noticed until it worked again.',
      buckets: pauseBucketsSeconds,
      registers,
    });
    // A series that appears only with its first event has no rate for it.
    for (const result of ['healed', 'failed']) this.#heals.inc({ result }, 0);
    for (const state of deviceStates) this.#devices.set({ state }, 0);
  }

  healed(pauseMs: number): void {
    this.#heals.inc({ result: 'healed' });
    this.#pause.observe(pauseMs / 1000);
  }

  healFailed(): void {
    this.#heals.inc({ result: 'failed' });
  }

  gaveUp(): void {
    this.#failed.inc();
  }

  devices(counts: Readonly<Record<DeviceState, number>>): void {
    for (const state of deviceStates) this.#devices.set({ state }, counts[state]);
  }
}

const connectionsMax = 16;
const requestMsDefault = 5_000;
const headerBytesMax = 8192;
/** How often Node looks for connections past their limits; it is every 30 s unless told. */
const checkMs = 1_000;

export interface MetricsPage {
  readonly host: string;
  /** 0 for any. */
  readonly port: number;
  readonly logger: Logger;
  /** How long a client may take for its request. 5 s unless given. */
  readonly requestMs?: number;
}

export interface MetricsServer {
  /** The real one where 0 was asked for. */
  readonly port: number;
  close(): Promise<void>;
}

/** Serves the page. UNAVAILABLE when the address cannot be listened on. */
export async function serveMetrics(
  registry: Registry,
  { host, port, logger, requestMs = requestMsDefault }: MetricsPage,
): Promise<MetricsServer> {
  const options = { maxHeaderSize: headerBytesMax, connectionsCheckingInterval: checkMs };
  const server = createServer(options, (request, response) => {
    answer(registry, request, response).catch((error: unknown) => {
      logger.warn('metrics could not be shown', { error });
      response.destroy();
    });
  });
  server.maxConnections = connectionsMax;
  server.headersTimeout = requestMs;
  server.requestTimeout = requestMs;
  server.timeout = 2 * requestMs;
  server.keepAliveTimeout = requestMs;
  await listen(server, host, port);
  // Without a listener an error of the socket, such as too many open files at accept, would end the process.
  server.on('error', (error) => {
    logger.warn('metrics server failed', { error });
  });
  // A listening TCP server has a port.
  const bound = server.address() as AddressInfo;
  return {
    port: bound.port,
    close: async () => {
      const closed = new Promise((done) => server.close(done));
      server.closeAllConnections();
      await closed;
    },
  };
}

async function listen(server: Server, host: string, port: number): Promise<void> {
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    const what = `show metrics on ${host}:${port}: ${describeError(cause)}`;
    throw new VolumeError('UNAVAILABLE', what, { cause });
  }
}

async function answer(
  registry: Registry,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  request.resume();
  const path = (request.url ?? '').replace(/\?.*$/, '');
  if (path !== '/metrics') {
    response.writeHead(404).end('not found: /metrics is all there is\n');
    return;
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { allow: 'GET, HEAD' }).end();
    return;
  }
  const page = await registry.metrics();
  response.writeHead(200, { 'content-type': registry.contentType }).end(page);
}
