import { afterEach, describe, expect, test } from '@jest/globals';
import { systemClock } from '../base/clock.ts';
import { silentLogger } from '../base/logger.ts';
import type { DeviceState } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import { DeviceMonitor, type MonitorLimits, type WatchedDevice } from './device-monitor.ts';
import { noMetrics, type AttacherMetrics } from './metrics.ts';
import type { Inspection } from './strategy.ts';

const limits: MonitorLimits = {
  checkMs: 20,
  retryMsFirst: 2,
  retryMsMax: 10,
  refusedMs: 60,
  giveUpMs: 200,
};

/** A device whose state the test sets; healing finds just that. */
class Device implements WatchedDevice {
  readonly volumeId = 'volume';
  state: DeviceState | 'throws' | 'busy' = 'attached';
  suspect = false;
  looks = 0;
  heals = 0;
  failures: string[] = [];
  failing: (() => Promise<void>) | null = null;
  healed = false;
  onHeal: () => void = () => undefined;

  isSuspect(): Promise<boolean> {
    this.looks += 1;
    return Promise.resolve(this.suspect);
  }

  heal(): Promise<Inspection> {
    this.heals += 1;
    this.onHeal();
    const { state, healed } = this;
    if (state === 'throws') return Promise.reject(new VolumeError('UNAVAILABLE', 'heal: no'));
    if (state === 'busy') return Promise.reject(new VolumeError('OPERATION_PENDING', 'busy'));
    return Promise.resolve({
      path: '/dev/x',
      sizeBytes: 1,
      state,
      reason: `it is ${state}`,
      healed,
    });
  }

  async fail(reason: string): Promise<void> {
    await this.failing?.();
    this.failures.push(reason);
  }
}

const monitors: DeviceMonitor[] = [];
afterEach(async () => {
  for (const monitor of monitors.splice(0)) await monitor.close();
});

interface Counted extends AttacherMetrics {
  pausesMs: number[];
  gaveUpCount: number;
  healFailedCount: number;
  counts: Readonly<Record<DeviceState, number>>;
}

function counting(): Counted {
  const counted: Counted = {
    ...noMetrics,
    pausesMs: [],
    gaveUpCount: 0,
    healFailedCount: 0,
    counts: { attached: 0, waiting: 0, broken: 0 },
    healed: (pauseMs) => void counted.pausesMs.push(pauseMs),
    gaveUp: () => (counted.gaveUpCount += 1),
    healFailed: () => (counted.healFailedCount += 1),
    devices: (counts) => (counted.counts = counts),
  };
  return counted;
}

function open(options: { metrics?: AttacherMetrics; refusedMs?: number } = {}): DeviceMonitor {
  const { metrics = noMetrics, refusedMs = limits.refusedMs } = options;
  const common = { clock: systemClock, logger: silentLogger, metrics };
  const monitor = new DeviceMonitor({
    ...common,
    limits: { ...limits, refusedMs, giveUpMs: Math.max(limits.giveUpMs, 4 * refusedMs) },
  });
  monitors.push(monitor);
  return monitor;
}

async function until(question: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!question()) {
    if (performance.now() > deadline) throw new Error('it did not happen');
    await systemClock.sleep(2);
  }
}

describe('a device that works', () => {
  test('is looked at closely once, and then cheaply', async () => {
    const device = new Device();
    open().watch('key', device);
    await until(() => device.looks >= 3);
    expect(device).toMatchObject({ heals: 1, failures: [] });
  });

  test('is looked at closely when it is suspect', async () => {
    const device = new Device();
    device.suspect = true;
    open().watch('key', device);
    await until(() => device.heals >= 3);
    expect(device.failures).toEqual([]);
  });

  test('is looked at at once after a nudge', async () => {
    const device = new Device();
    const monitor = open();
    monitor.watch('key', device);
    await until(() => device.heals === 1);
    device.state = 'waiting';
    monitor.nudge('key');
    monitor.nudge('another');
    await until(() => device.heals >= 2);
    expect(device.looks).toBeLessThan(3);
  });
});

test('a device that is healed at the first attempt is counted', async () => {
  const metrics = counting();
  const device = new Device();
  const monitor = open({ metrics });
  monitor.watch('key', device);
  await until(() => device.heals === 1);
  expect(metrics.pausesMs).toEqual([]);
  device.healed = true;
  monitor.nudge('key');
  await until(() => metrics.pausesMs.length === 1);
});

test('a link that dies as soon as it is made is not made without a pause', async () => {
  const device = new Device();
  const monitor = open();
  device.onHeal = () => {
    monitor.nudge('key');
  };
  for (const state of ['attached', 'waiting'] as const) {
    device.state = state;
    monitor.watch('key', device);
    const { heals } = device;
    await systemClock.sleep(100);
    // 50 pauses of 2 ms at most, were the timers exact.
    expect(device.heals - heals).toBeLessThan(55);
    expect(device.heals - heals).toBeGreaterThan(1);
  }
});

describe('a device in trouble', () => {
  test('is healed again and again until it works', async () => {
    const metrics = counting();
    const device = new Device();
    device.state = 'waiting';
    open({ metrics }).watch('key', device);
    await until(() => device.heals >= 5);
    expect(metrics.counts).toEqual({ attached: 0, waiting: 1, broken: 0 });
    expect(metrics.healFailedCount).toBeGreaterThan(2);
    device.state = 'attached';
    await until(() => metrics.pausesMs.length === 1);
    expect(metrics.counts).toEqual({ attached: 1, waiting: 0, broken: 0 });
    expect(metrics.pausesMs[0]).toBeLessThan(limits.giveUpMs);
    expect(device.failures).toEqual([]);
  });

  test('is given up when waiting is over', async () => {
    const metrics = counting();
    const device = new Device();
    device.state = 'waiting';
    const startMs = performance.now();
    open({ metrics }).watch('key', device);
    await until(() => metrics.gaveUpCount === 1);
    expect(performance.now() - startMs).toBeGreaterThanOrEqual(limits.giveUpMs);
    expect(device.failures).toEqual(['no volumedriver for 0 s: it is waiting']);
    expect(metrics.counts.broken).toBe(1);
    const { heals } = device;
    await systemClock.sleep(60);
    expect(device.heals).toBe(heals);
  });

  test('is given up, too, when every attempt goes wrong', async () => {
    const device = new Device();
    device.state = 'throws';
    open().watch('key', device);
    await until(() => device.failures.length === 1);
    expect(device.failures[0]).toContain('heal: no');
  });

  test('is given up sooner when the export is refused', async () => {
    const device = new Device();
    device.state = 'broken';
    const startMs = performance.now();
    open().watch('key', device);
    await until(() => device.failures.length === 1);
    const tookMs = performance.now() - startMs;
    expect(tookMs).toBeGreaterThanOrEqual(limits.refusedMs);
    expect(device.failures).toEqual(['it is broken']);
  });

  test('is not given up for refusals that end', async () => {
    const metrics = counting();
    const device = new Device();
    const refusedMs = 1000;
    open({ metrics, refusedMs }).watch('key', device);
    const startMs = performance.now();
    while (performance.now() - startMs < 1.5 * refusedMs) {
      const round = device.heals;
      device.suspect = true;
      device.state = 'broken';
      await until(() => metrics.counts.broken === 1);
      await systemClock.sleep(refusedMs / 20);
      device.state = round % 2 === 0 ? 'waiting' : 'attached';
      await until(() => metrics.counts.broken === 0);
    }
    expect(device.failures).toEqual([]);
  });

  test('is given up again when giving up went wrong', async () => {
    const device = new Device();
    device.state = 'broken';
    let refusals = 2;
    device.failing = () =>
      refusals-- > 0 ? Promise.reject(new Error('still busy')) : Promise.resolve();
    open().watch('key', device);
    await until(() => device.failures.length === 1);
    expect(refusals).toBe(-1);
  });
});

test('another operation on the device is waited for, and is no trouble', async () => {
  const metrics = counting();
  const device = new Device();
  device.state = 'busy';
  open({ metrics }).watch('key', device);
  await until(() => device.heals >= 5);
  expect(metrics).toMatchObject({ healFailedCount: 0, counts: { attached: 1 } });
  await systemClock.sleep(limits.giveUpMs);
  expect(device.failures).toEqual([]);
  device.state = 'attached';
  const { heals } = device;
  await until(() => device.heals > heals);
});

test('one device that hangs keeps no other waiting', async () => {
  const stuck = new Device();
  let release: () => void = () => undefined;
  stuck.heal = () =>
    new Promise((resolve) => {
      release = () => {
        resolve({ path: '', sizeBytes: 0, state: 'attached', reason: '' });
      };
    });
  const device = new Device();
  device.state = 'waiting';
  const monitor = open();
  monitor.watch('stuck', stuck);
  monitor.watch('other', device);
  await until(() => device.heals >= 3);
  release();
});

test('a device that is forgotten is left alone, and close waits for what runs', async () => {
  const device = new Device();
  const metrics = counting();
  const monitor = open({ metrics });
  monitor.watch('key', device);
  await until(() => device.looks >= 1);
  monitor.forget('key');
  monitor.nudge('key');
  const { heals } = device;
  await systemClock.sleep(50);
  expect(device.heals).toBe(heals);
  expect(metrics.counts).toEqual({ attached: 0, waiting: 0, broken: 0 });

  const slow = new Device();
  let ended = false;
  slow.heal = async () => {
    await systemClock.sleep(50);
    ended = true;
    return { path: '', sizeBytes: 0, state: 'attached', reason: '' };
  };
  monitor.watch('slow', slow);
  await systemClock.sleep(5);
  await monitor.close();
  expect(ended).toBe(true);
});
