import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  driverName,
  startKubeFixture,
  until,
  watchTimings,
  type KubeFixture,
} from '../../test/support/kube-fixture.ts';
import { recordingLogger } from '../../test/support/recording-logger.ts';
import type { KubeObject } from '../../test/support/kube-api-server-store.ts';
import { systemClock, type Clock } from '../base/clock.ts';
import { VolumeEvents, type EventLimits, type VolumeEvent } from './volume-events.ts';

let kube: KubeFixture;
let opened: VolumeEvents[];
let messages: string[];
/** What the wall clock is ahead. */
let aheadMs: number;

const halted: VolumeEvent = {
  volumeId: 'backend.v1',
  type: 'Warning',
  reason: 'VolumeHalted',
  message: 'The volume has stopped.',
};

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 500 });
  opened = [];
  aheadMs = 0;
  putVolume('pv1', 'backend.v1', { namespace: 'shop', name: 'data', uid: 'claim-uid' });
});

afterEach(async () => {
  await Promise.all(opened.map(async (events) => await events.close()));
  await kube.close();
});

function putVolume(
  name: string,
  volumeHandle: string,
  claimRef?: object,
  driver = driverName,
): void {
  kube.server.store.put('persistentvolumes', {
    metadata: { name, uid: `uid-of-${name}` },
    spec: { csi: { driver, volumeHandle }, ...(claimRef === undefined ? {} : { claimRef }) },
  });
}

function start(limits: Partial<EventLimits> = {}): VolumeEvents {
  const recorder = recordingLogger();
  messages = recorder.messages;
  const clock: Clock = {
    now: () => systemClock.now() + aheadMs,
    monotonicMs: () => systemClock.monotonicMs() + aheadMs,
    sleep: async (ms, signal) => await systemClock.sleep(ms, signal),
  };
  const events = VolumeEvents.start({
    cluster: kube.cluster,
    driverName,
    logger: recorder.logger,
    clock,
    limits,
    timings: watchTimings,
  });
  opened.push(events);
  return events;
}

function stored(): KubeObject[] {
  return kube.server.store.list({ plural: 'events' });
}

function writes(): number {
  return kube.server.requests.filter(({ verb, plural }) => plural === 'events' && verb !== 'get')
    .length;
}

describe('an event', () => {
  test('is about the claim', async () => {
    const events = start();
    events.report(halted);
    await events.idle();
    expect(stored()).toEqual([
      expect.objectContaining({
        metadata: expect.objectContaining({
          namespace: 'shop',
          name: expect.stringMatching(/^data\.[0-9a-f]{16}$/) as unknown,
        }) as unknown,
        involvedObject: {
          apiVersion: 'v1',
          kind: 'PersistentVolumeClaim',
          namespace: 'shop',
          name: 'data',
          uid: 'claim-uid',
        },
        type: 'Warning',
        reason: 'VolumeHalted',
        message: 'The volume has stopped.',
        source: { component: driverName },
        count: 1,
      }),
    ]);
    expect(messages).toEqual([]);
  });

  const unclaimed: [name: string, claimRef: object | undefined][] = [
    ['there is none', undefined],
    ['it is only meant for one', { namespace: 'shop', name: 'later' }],
  ];
  test.each(unclaimed)('is about the PersistentVolume when %s', async (_name, claimRef) => {
    putVolume('pv2', 'backend.v2', claimRef);
    const events = start();
    events.report({ ...halted, volumeId: 'backend.v2' });
    await events.idle();
    expect(stored()).toEqual([
      expect.objectContaining({
        metadata: expect.objectContaining({ namespace: 'default' }) as unknown,
        involvedObject: expect.objectContaining({
          kind: 'PersistentVolume',
          name: 'pv2',
        }) as unknown,
      }),
    ]);
  });

  test('is about the claim that the volume is bound to by now', async () => {
    putVolume('pv2', 'backend.v2');
    const events = start();
    events.report({ ...halted, volumeId: 'backend.v2' });
    await events.idle();
    putVolume('pv2', 'backend.v2', { namespace: 'shop', name: 'two', uid: 'two' });
    let tries = 0;
    await until('the claim is known', () => {
      tries += 1;
      events.report({ ...halted, volumeId: 'backend.v2', reason: `Try${tries}` });
      return stored().some(({ metadata }) => metadata.namespace === 'shop');
    });
  });

  test('of no volume of ours is only logged', async () => {
    putVolume('pv3', 'backend.v3', { namespace: 'shop', name: 'x', uid: 'x' }, 'other.driver');
    const events = start();
    events.report({ ...halted, volumeId: 'backend.v3' });
    events.report({ ...halted, volumeId: 'nobody' });
    await events.idle();
    expect(stored()).toEqual([]);
    expect(events.volumeIds()).toEqual(['backend.v1']);
    expect(messages).toEqual([
      'event without a PersistentVolume',
      'event without a PersistentVolume',
    ]);
  });

  test('of a long name and message fits', async () => {
    const name = 'n'.repeat(253);
    putVolume('pv4', 'backend.v4', { namespace: 'shop', name, uid: 'x' });
    const events = start();
    events.report({ ...halted, volumeId: 'backend.v4', message: 'm'.repeat(5000) });
    await events.idle();
    expect(stored()[0]?.metadata.name.length).toBeLessThan(253);
    expect(stored()[0]?.['message']).toHaveLength(1024);
  });
});

describe('a repeated event', () => {
  test('is written once in a time, then counted', async () => {
    const events = start({ repeatMs: 60_000 });
    for (let i = 0; i < 5; i += 1) {
      events.report(halted);
      await events.idle();
    }
    expect(writes()).toBe(1);
    aheadMs = 61_000;
    events.report(halted);
    await events.idle();
    expect(stored()).toEqual([expect.objectContaining({ count: 2 })]);
    const [event] = stored();
    expect(event?.['firstTimestamp']).not.toBe(event?.['lastTimestamp']);
  });

  test('with news is written at once', async () => {
    const events = start();
    events.report(halted);
    await events.idle();
    events.report({ ...halted, message: 'Worse.' });
    await events.idle();
    expect(stored()).toEqual([expect.objectContaining({ count: 2, message: 'Worse.' })]);
  });

  test('by another replica is not doubled', async () => {
    const [one, two] = [start(), start()];
    one.report(halted);
    two.report(halted);
    await Promise.all([one.idle(), two.idle()]);
    expect(stored()).toEqual([expect.objectContaining({ count: 1 })]);
    aheadMs = 400_000;
    one.report(halted);
    two.report(halted);
    await Promise.all([one.idle(), two.idle()]);
    expect(stored()).toEqual([expect.objectContaining({ count: 2 })]);
    expect(messages).toEqual([]);
  });

  test('that expired in the API server is written again', async () => {
    const events = start({ repeatMs: 60_000 });
    events.report(halted);
    await events.idle();
    const [event] = stored();
    kube.server.store.delete('events', 'shop', event?.metadata.name ?? '');
    aheadMs = 61_000;
    events.report(halted);
    await events.idle();
    expect(stored()).toEqual([expect.objectContaining({ count: 1 })]);
  });
});

describe('reporting', () => {
  const faults = [
    { name: 'forbidden', answer: { kind: 'status', code: 403, reason: 'Forbidden' } },
    { name: 'unanswered', answer: { kind: 'hang' } },
    { name: 'of a namespace that goes', answer: { kind: 'status', code: 404, reason: 'NotFound' } },
  ] as const;
  test.each(faults)('does not throw when writing is $name', async ({ answer }) => {
    const events = start();
    const lift = kube.server.inject({ plural: 'events', answer });
    events.report(halted);
    await events.idle();
    expect(messages).toEqual(['event not written']);
    lift();
    events.report(halted);
    await events.idle();
    expect(stored()).toHaveLength(1);
  });

  test('does not wait for an API server that is down', async () => {
    await kube.server.stop();
    const events = start({ syncMs: 100 });
    events.report(halted);
    await events.idle();
    expect(messages).toContain('event not written');
    await kube.server.restart();
    events.report(halted);
    await until('it is written', () => {
      events.report(halted);
      return stored().length === 1;
    });
  });

  test('is limited in rate, and in what waits', async () => {
    for (let i = 0; i < 20; i += 1) putVolume(`many-${i}`, `many-${i}`);
    const events = start({ burst: 3, intervalMs: 100, waitingMax: 6 });
    const startMs = performance.now();
    for (let i = 0; i < 20; i += 1) events.report({ ...halted, volumeId: `many-${i}` });
    await events.idle();
    expect(performance.now() - startMs).toBeGreaterThan(250);
    expect(stored()).toHaveLength(6);
    expect(messages.filter((message) => message.startsWith('event dropped'))).toHaveLength(14);
  });

  test('keeps the newest of those that wait', async () => {
    putVolume('pv2', 'backend.v2');
    const events = start();
    events.report(halted);
    for (let i = 0; i < 50; i += 1) {
      events.report({ ...halted, volumeId: 'backend.v2', message: `${i}` });
    }
    await events.idle();
    expect(stored()).toHaveLength(2);
    expect(stored().map((event) => event['message'])).toContain('49');
    expect(writes()).toBe(2);
  });

  test('ends with close, whatever waits', async () => {
    kube.server.inject({ answer: { kind: 'hang' } });
    const events = start();
    events.report(halted);
    events.report({ ...halted, reason: 'Other' });
    await events.close();
    events.report(halted);
    expect(messages).toEqual([]);
  });
});
