import { afterEach, expect, test } from '@jest/globals';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import { systemClock, type Clock } from '../base/clock.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { CallMetrics } from './call-metrics.ts';
import { Question } from './question.ts';
import { VolumedriverMetrics, type VolumedriverFacts } from './volumedriver-metrics.ts';

let made: VolumedriverMetrics | undefined;
afterEach(() => {
  made?.registry.clear();
});

/** Real, but waits a hundred times as fast. */
const fastClock: Clock = {
  ...systemClock,
  sleep: (ms, signal) => systemClock.sleep(ms / 100, signal),
};

function metricsOf(facts: Partial<VolumedriverFacts>): VolumedriverMetrics {
  made = new VolumedriverMetrics({
    driverName: 'csi.example',
    nodeId: 'n1',
    version: '1.2.3',
    clock: fastClock,
    service: () => null,
    ready: () => Promise.resolve(null),
    certificateExpiresAtMs: () => null,
    ...facts,
  });
  return made;
}

async function linesOf(metrics: VolumedriverMetrics): Promise<string[]> {
  return (await metrics.metrics()).split('\n');
}

test('volumes, capacity and the certificate are shown', async () => {
  const memory = new MemoryVolumeService();
  for (const name of ['a', 'b', 'c']) await memory.createVolume({ name, sizeBytes: 4096 });
  memory.setClients('a', 2);
  memory.setHalted('b', 'write log: disk full');
  const capacity = await memory.capacity();
  const metrics = metricsOf({
    service: () => memory,
    certificateExpiresAtMs: () => 1_800_000_000_000,
  });
  expect(await linesOf(metrics)).toEqual(
    expect.arrayContaining([
      'volumedriver_info{driver="csi.example",node="n1",version="1.2.3"} 1',
      'volumedriver_ready 1',
      'volumedriver_volumes{state="all"} 3',
      'volumedriver_volumes{state="open"} 1',
      'volumedriver_volumes{state="halted"} 1',
      'volumedriver_volume_bytes{kind="size"} 12288',
      `volumedriver_capacity_bytes{kind="total"} ${capacity.totalBytes}`,
      `volumedriver_capacity_bytes{kind="available"} ${capacity.availableBytes}`,
      'volumedriver_certificate_expiry_timestamp_seconds 1800000000',
      expect.stringMatching(/^process_resident_memory_bytes \d+$/),
    ]),
  );
});

test('an engine that recovers, fails or is stuck leaves a page with the rest', async () => {
  const memory = new MemoryVolumeService();
  const stuck: VolumeService = Object.assign(Object.create(memory) as VolumeService, {
    capacity: () => new Promise(() => undefined),
  });
  const failing: VolumeService = Object.assign(Object.create(memory) as VolumeService, {
    capacity: () => Promise.reject(new VolumeError('UNAVAILABLE', 'the engine has ended')),
  });
  for (const service of [null, stuck, failing]) {
    const ready = (): Promise<string> => Promise.resolve('no');
    const lines = await linesOf(metricsOf({ service: () => service, ready }));
    expect(lines).toContain('volumedriver_ready 0');
    expect(lines).toContain('volumedriver_certificate_expiry_timestamp_seconds 0');
  }
});

test('calls are counted by name and code', async () => {
  const metrics = metricsOf({});
  const { observe } = new CallMetrics(metrics.registry, 'volumedriver');
  const path = '/volumedriver.v1.Volumedriver/GetVolume';
  observe({ path, durationMs: 2 });
  observe({ path, durationMs: 200 });
  observe({ path, durationMs: 2, error: new VolumeError('VOLUME_NOT_FOUND', 'no: such') });
  expect(await linesOf(metrics)).toEqual(
    expect.arrayContaining([
      'volumedriver_api_calls_total{rpc="GetVolume",code="OK"} 2',
      'volumedriver_api_calls_total{rpc="GetVolume",code="VOLUME_NOT_FOUND"} 1',
      'volumedriver_api_call_seconds_bucket{le="0.1",rpc="GetVolume"} 2',
      'volumedriver_api_call_seconds_count{rpc="GetVolume"} 3',
    ]),
  );
});

test('a question without an answer is asked once, and waited for only so long', async () => {
  let asked = 0;
  const answers: PromiseWithResolvers<number>[] = [];
  const question = new Question(systemClock, 0, () => {
    asked += 1;
    const answer = Promise.withResolvers<number>();
    answers.push(answer);
    return answer.promise;
  });
  await expect(question.ask(10)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  const second = question.ask(10_000);
  expect(asked).toBe(1);
  answers[0]?.resolve(7);
  expect(await second).toBe(7);
  const third = question.ask(10_000);
  expect(asked).toBe(2);
  answers[1]?.reject(new Error('no'));
  await expect(third).rejects.toThrow('no');
});

test('an answer serves for a while', async () => {
  let asked = 0;
  const question = new Question(systemClock, 60_000, () => Promise.resolve(++asked));
  expect([await question.ask(1000), await question.ask(1000)]).toEqual([1, 1]);
});
