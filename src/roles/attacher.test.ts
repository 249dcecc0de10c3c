import { expect, test } from '@jest/globals';
import { PrometheusMetrics } from '../attacher/metrics.ts';
import { silentLogger } from '../base/logger.ts';
import { showMetrics } from './attacher.ts';

const metrics = new PrometheusMetrics({ strategy: 'fuse', driver: 'csi.example' });
const host = '127.0.0.1';

test('metrics that nobody wants are not shown', async () => {
  expect(await showMetrics(metrics, { metrics: null }, silentLogger)).toBeNull();
});

test('an attacher goes on without metrics where their port is taken', async () => {
  const warnings: unknown[] = [];
  const logger = {
    ...silentLogger,
    warn: (message: string, fields: unknown) => void warnings.push([message, fields]),
  };
  const first = await showMetrics(metrics, { metrics: { host, port: 0 } }, logger);
  try {
    const port = first?.port ?? 0;
    expect(port).toBeGreaterThan(0);
    expect(await showMetrics(metrics, { metrics: { host, port } }, logger)).toBeNull();
    expect(warnings).toEqual([
      ['going on without metrics', { error: expect.objectContaining({ code: 'UNAVAILABLE' }) }],
    ]);
  } finally {
    await first?.close();
  }
});
