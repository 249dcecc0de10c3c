/**
 * How a role is watched, over plain HTTP: GET /metrics for Prometheus, /healthz (the process lives) and /readyz (it
 * does its work) for probes. It may be on any address: what it shows are numbers, and it takes nothing. Few connections,
 * short limits, no other path.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describeError, type Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';

/** As a registry of prom-client has it. */
export interface MetricsPage {
  readonly contentType: string;
  metrics(): Promise<string>;
}

export interface MonitoringOptions {
  readonly host: string;
  /** 0 for any. */
  readonly port: number;
  readonly logger: Logger;
  readonly page: MetricsPage;
  /** Null when the role does its work, else why it does not (yet). */
  readonly ready: () => Promise<string | null>;
  /** How long a client may take for its request, and we for the answer. 5 s unless given. */
  readonly requestMs?: number;
}

export interface MonitoringServer {
  /** The real one where 0 was asked for. */
  readonly port: number;
  close(): Promise<void>;
}

/** Of other machines, and of all together: the kubelet's probes must get through whatever others do. */
const connectionsMax = { foreign: 64, all: 128 } as const;
const requestMsDefault = 5_000;
const headerBytesMax = 8192;
/** How often Node looks for connections past their limits; it is every 30 s unless told. */
const checkMs = 1_000;

/** UNAVAILABLE when the address cannot be listened on. */
export async function startMonitoring(options: MonitoringOptions): Promise<MonitoringServer> {
  const { host, port, logger, requestMs = requestMsDefault } = options;
  const limits = { maxHeaderSize: headerBytesMax, connectionsCheckingInterval: checkMs };
  const server = createServer(limits, (request, response) => {
    answer(options, request, response).catch((error: unknown) => {
      logger.warn('monitoring could not answer', { path: request.url, error });
      response.destroy();
    });
  });
  server.maxConnections = connectionsMax.all;
  limitForeign(server);
  server.headersTimeout = requestMs;
  server.requestTimeout = requestMs;
  server.timeout = 2 * requestMs;
  server.keepAliveTimeout = requestMs;
  await listen(server, host, port);
  // Without a listener an error of the socket, such as too many open files at accept, would end the process.
  server.on('error', (error) => {
    logger.warn('monitoring failed', { error });
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

/** Null when nobody wants it, or when it cannot be had, which is logged: the role does its work all the same. */
export async function startMonitoringIfWanted(
  address: { host: string; port: number } | null,
  options: Omit<MonitoringOptions, 'host' | 'port'>,
): Promise<MonitoringServer | null> {
  if (address === null) return null;
  try {
    return await startMonitoring({ ...options, ...address });
  } catch (error) {
    options.logger.warn('going on without monitoring', { error });
    return null;
  }
}

/** A probe that finds no connection left takes the role for unready: nobody else may bring that about. */
function limitForeign(server: Server): void {
  let count = 0;
  server.on('connection', (socket) => {
    if (socket.remoteAddress === socket.localAddress) return;
    if (count >= connectionsMax.foreign) {
      socket.destroy();
      return;
    }
    count += 1;
    socket.once('close', () => {
      count -= 1;
    });
  });
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
  { page, ready, requestMs = requestMsDefault }: MonitoringOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  request.resume();
  const path = (request.url ?? '').replace(/\?.*$/, '');
  if (!['/metrics', '/healthz', '/readyz'].includes(path)) {
    response.writeHead(404).end('not found: /metrics, /healthz and /readyz are all there is\n');
    return;
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { allow: 'GET, HEAD' }).end();
    return;
  }
  if (path === '/healthz') {
    say(response, 200, 'ok');
    return;
  }
  if (path === '/readyz') {
    const why = await inTime(ready(), requestMs).catch(describeError);
    say(response, why === null ? 200 : 503, why ?? 'ok');
    return;
  }
  const text = await inTime(page.metrics(), requestMs);
  response.writeHead(200, { 'content-type': page.contentType }).end(text);
}

function say(response: ServerResponse, code: number, text: string): void {
  response.writeHead(code, { 'content-type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

async function inTime<Result>(work: Promise<Result>, limitMs: number): Promise<Result> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new VolumeError('UNAVAILABLE', `monitoring: no answer within ${limitMs} ms`));
  }, limitMs);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
