import { afterEach, describe, expect, test } from '@jest/globals';
import { connect } from 'node:net';
import { once } from 'node:events';
import { silentLogger } from '../base/logger.ts';
import { PrometheusMetrics, serveMetrics, type MetricsServer } from './metrics.ts';

const about = { strategy: 'kernel', driver: 'csi.example' };
const host = '127.0.0.1';
let server: MetricsServer | undefined;

afterEach(async () => {
  await server?.close();
  server = undefined;
});

async function serve(metrics = new PrometheusMetrics(about)): Promise<string> {
  server = await serveMetrics(metrics.registry, { host, port: 0, logger: silentLogger });
  return `http://${host}:${server.port}`;
}

describe('what is counted', () => {
  test('every series is there from the start', async () => {
    const page = await new PrometheusMetrics(about).registry.metrics();
    expect(page.split('\n')).toEqual(
      expect.arrayContaining([
        'volumedriver_attacher_info{strategy="kernel",driver="csi.example"} 1',
        'volumedriver_attacher_devices{state="attached"} 0',
        'volumedriver_attacher_devices{state="waiting"} 0',
        'volumedriver_attacher_devices{state="broken"} 0',
        'volumedriver_attacher_heals_total{result="healed"} 0',
        'volumedriver_attacher_heals_total{result="failed"} 0',
        'volumedriver_attacher_failed_total 0',
        'volumedriver_attacher_pause_seconds_count 0',
      ]),
    );
  });

  test('events and states', async () => {
    const metrics = new PrometheusMetrics(about);
    metrics.healFailed();
    metrics.healFailed();
    metrics.healed(1500);
    metrics.gaveUp();
    metrics.devices({ attached: 3, waiting: 1, broken: 1 });
    metrics.devices({ attached: 2, waiting: 0, broken: 1 });
    expect((await metrics.registry.metrics()).split('\n')).toEqual(
      expect.arrayContaining([
        'volumedriver_attacher_devices{state="attached"} 2',
        'volumedriver_attacher_devices{state="waiting"} 0',
        'volumedriver_attacher_devices{state="broken"} 1',
        'volumedriver_attacher_heals_total{result="healed"} 1',
        'volumedriver_attacher_heals_total{result="failed"} 2',
        'volumedriver_attacher_failed_total 1',
        'volumedriver_attacher_pause_seconds_sum 1.5',
        'volumedriver_attacher_pause_seconds_bucket{le="1"} 0',
        'volumedriver_attacher_pause_seconds_bucket{le="2.5"} 1',
      ]),
    );
  });
});

describe('the page', () => {
  test('shows them as Prometheus reads them', async () => {
    const answer = await fetch(`${await serve()}/metrics?name=ignored`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toContain('version=0.0.4');
    expect(await answer.text()).toContain('volumedriver_attacher_info{');
  });

  test('is the only one', async () => {
    const answer = await fetch(`${await serve()}/`);
    expect(answer.status).toBe(404);
  });

  test('takes nothing', async () => {
    const answer = await fetch(`${await serve()}/metrics`, { method: 'POST', body: 'x' });
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
    const { registry } = new PrometheusMetrics(about);
    server = await serveMetrics(registry, { host, port: 0, logger: silentLogger, requestMs: 300 });
    const socket = connect(server.port, host);
    socket.on('error', () => undefined);
    let answer = '';
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString()));
    socket.write('GET /metrics HTTP/1.1\r\nx-slow: ');
    const drip = setInterval(() => socket.write('x'), 100);
    await once(socket, 'close');
    clearInterval(drip);
    expect(answer).toContain('408 Request Timeout');
  });

  test('says which address is taken', async () => {
    await serve();
    const port = server?.port ?? 0;
    const second = serveMetrics(new PrometheusMetrics(about).registry, {
      host,
      port,
      logger: silentLogger,
    });
    await expect(second).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining(`${host}:${port}`),
    });
  });
});
