import { describe, expect, test } from '@jest/globals';
import { PrometheusMetrics } from './metrics.ts';

const about = { strategy: 'kernel', driver: 'csi.example' };

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
