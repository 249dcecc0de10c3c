import { afterEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { connect } from 'node:net';
import { eventually } from '../../test/support/eventually.ts';
import { silentLogger } from '../base/logger.ts';
import {
  startMonitoring,
  startMonitoringIfWanted,
  type MonitoringOptions,
  type MonitoringServer,
} from './http-server.ts';

const host = '127.0.0.1';
let server: MonitoringServer | undefined;

afterEach(async () => {
  await server?.close();
  server = undefined;
});

const options: MonitoringOptions = {
  host,
  port: 0,
  logger: silentLogger,
  page: {
    contentType: 'text/plain; version=0.0.4',
    metrics: () => Promise.resolve('volumedriver_test 1\n'),
  },
  ready: () => Promise.resolve(null),
};

async function serve(changes: Partial<MonitoringOptions> = {}): Promise<string> {
  server = await startMonitoring({ ...options, ...changes });
  return `http://${host}:${server.port}`;
}

describe('the metrics', () => {
  test('are shown as Prometheus reads them', async () => {
    const answer = await fetch(`${await serve()}/metrics?name=ignored`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toContain('version=0.0.4');
    expect(await answer.text()).toBe('volumedriver_test 1\n');
  });

  test('that never come do not hold a connection', async () => {
    const page = { contentType: 'text/plain', metrics: () => new Promise<string>(() => undefined) };
    const url = await serve({ page, requestMs: 200 });
    await expect(fetch(`${url}/metrics`)).rejects.toThrow();
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
  });
});

describe('probes', () => {
  test.each<[string, MonitoringOptions['ready'], number, string]>([
    ['ready', () => Promise.resolve(null), 200, 'ok\n'],
    ['not ready', () => Promise.resolve('it recovers'), 503, 'it recovers\n'],
    ['in trouble', () => Promise.reject(new Error('no engine')), 503, 'no engine\n'],
    ['stuck', () => new Promise(() => undefined), 503, 'monitoring: no answer within 200 ms\n'],
  ])('of a role that is %s', async (_, ready, status, says) => {
    const url = await serve({ ready, requestMs: 200 });
    const readiness = await fetch(`${url}/readyz`);
    expect([readiness.status, await readiness.text()]).toEqual([status, says]);
    // It lives all the same.
    const health = await fetch(`${url}/healthz`);
    expect([health.status, await health.text()]).toEqual([200, 'ok\n']);
  });
});

describe('the server', () => {
  test.each(['/', '/metrics/', '/healthz/x', '/..'])('has nothing at %s', async (path) => {
    expect((await fetch(`${await serve()}${path}`)).status).toBe(404);
  });

  test.each(['/metrics', '/healthz', '/readyz'])('takes nothing at %s', async (path) => {
    const answer = await fetch(`${await serve()}${path}`, { method: 'POST', body: 'x' });
    expect(answer.status).toBe(405);
  });

  test('ends with clients connected that say nothing', async () => {
    await serve();
    const socket = connect(server?.port ?? 0, host);
    await once(socket, 'connect');
    const closed = once(socket, 'close');
    await server?.close();
    await closed;
  });

  test('drops a client that is slow to ask', async () => {
    await serve({ requestMs: 300 });
    const socket = connect(server?.port ?? 0, host);
    socket.on('error', () => undefined);
    let answer = '';
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString()));
    socket.write('GET /metrics HTTP/1.1\r\nx-slow: ');
    const drip = setInterval(() => socket.write('x'), 100);
    await once(socket, 'close');
    clearInterval(drip);
    expect(answer).toContain('408 Request Timeout');
  });

  test('keeps room for the probes of its own machine, however many others connect', async () => {
    const url = await serve();
    const others = Array.from({ length: 70 }, () =>
      connect({ port: server?.port ?? 0, host, localAddress: '127.0.0.2' }).on(
        'error',
        () => undefined,
      ),
    );
    await eventually(() => {
      expect(others.filter((other) => other.destroyed)).toHaveLength(6);
    });
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    for (const other of others) other.destroy();
  });

  test('says which address is taken', async () => {
    await serve();
    const port = server?.port ?? 0;
    await expect(startMonitoring({ ...options, port })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining(`${host}:${port}`),
    });
  });
});

describe('a role', () => {
  test('is not watched when nobody wants it', async () => {
    expect(await startMonitoringIfWanted(null, options)).toBeNull();
  });

  test('goes on unwatched where the port is taken', async () => {
    const warnings: unknown[] = [];
    const warn = (...warning: unknown[]): void => void warnings.push(warning);
    const logger = { ...silentLogger, warn };
    await serve();
    const address = { host, port: server?.port ?? 0 };
    expect(await startMonitoringIfWanted(address, { ...options, logger })).toBeNull();
    expect(warnings).toEqual([
      ['going on without monitoring', { error: expect.objectContaining({ code: 'UNAVAILABLE' }) }],
    ]);
  });
});
