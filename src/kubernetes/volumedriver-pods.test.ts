import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  namespace,
  putPod,
  selector,
  startKubeFixture,
  until,
  watchTimings,
  type KubeFixture,
} from '../../test/support/kube-fixture.ts';
import { recordingLogger } from '../../test/support/recording-logger.ts';
import { listVolumedriverPods, VolumedriverPods } from './volumedriver-pods.ts';
import type { WatchTimings } from './watched-list.ts';

let kube: KubeFixture;
let pods: VolumedriverPods | undefined;
let messages: string[];

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 1000 });
  putPod(kube.server, { name: 'p1', node: 'n1', ip: '10.0.0.1' });
});

afterEach(async () => {
  await pods?.close();
  pods = undefined;
  await kube.close();
});

function follow(timings: Partial<WatchTimings> = {}): VolumedriverPods {
  const recorder = recordingLogger();
  messages = recorder.messages;
  pods = VolumedriverPods.watch({
    cluster: kube.cluster,
    selection: { namespace, selector },
    logger: recorder.logger,
    timings: { ...watchTimings, ...timings },
  });
  return pods;
}

async function following(timings: Partial<WatchTimings> = {}): Promise<VolumedriverPods> {
  const followed = follow(timings);
  await followed.whenSynced(5000);
  await until('the watch is open', () => kube.server.openWatches === 1);
  return followed;
}

function verbs(): string[] {
  return kube.server.requests.map(({ verb }) => verb);
}

describe('pods of the volumedriver', () => {
  test('are found by namespace and labels, and tell node, address and state', async () => {
    putPod(kube.server, { name: 'p2', node: 'n2', ready: false });
    putPod(kube.server, { name: 'other', node: 'n3', labels: { app: 'other' } });
    putPod(kube.server, { name: 'unscheduled' });
    putPod(kube.server, { name: 'ended', node: 'n4', phase: 'Failed' });
    const followed = await following();
    expect(followed.list()).toMatchObject([
      { name: 'p1', nodeId: 'n1', ip: '10.0.0.1', ready: true, terminating: false },
      { name: 'p2', nodeId: 'n2', ip: null, ready: false, terminating: false },
    ]);
    expect(followed.ofNode('n2')?.name).toBe('p2');
    expect(followed.ofNode('n3')).toBeUndefined();
    expect(await listVolumedriverPods(kube.cluster, { namespace, selector })).toEqual(
      followed.list(),
    );
  });

  test('are one for each node: the one that stays, and of those the newest', async () => {
    const old = '2026-01-01T00:00:00Z';
    const recent = '2026-01-02T00:00:00Z';
    putPod(kube.server, { name: 'a', node: 'n5', creationTimestamp: old });
    putPod(kube.server, { name: 'b', node: 'n5', creationTimestamp: recent });
    putPod(kube.server, {
      name: 'c',
      node: 'n5',
      creationTimestamp: '2026-01-03T00:00:00Z',
      deletionTimestamp: '2026-01-04T00:00:00Z',
    });
    expect((await following()).ofNode('n5')).toMatchObject({ name: 'b', ready: true });
  });

  test('are followed: new, changed, moved to another selector, replaced, deleted', async () => {
    const followed = await following();
    let changes = 0;
    const unsubscribe = followed.onChange(() => (changes += 1));
    putPod(kube.server, { name: 'p2', node: 'n2', ip: '10.0.0.2' });
    await until('p2 is there', () => followed.ofNode('n2') !== undefined);
    putPod(kube.server, { name: 'p2', node: 'n2', ip: '10.0.0.3', ready: false });
    await until('p2 has changed', () => followed.ofNode('n2')?.ip === '10.0.0.3');
    const { uid } = followed.ofNode('n1') ?? {};
    kube.server.store.delete('pods', namespace, 'p1');
    putPod(kube.server, { name: 'p1', node: 'n1', ip: '10.0.0.9' });
    await until('p1 is another one', () => followed.ofNode('n1')?.ip === '10.0.0.9');
    expect(followed.ofNode('n1')?.uid).not.toBe(uid);
    putPod(kube.server, { name: 'p2', node: 'n2', labels: { app: 'other' } });
    await until('p2 is no volumedriver any more', () => followed.ofNode('n2') === undefined);
    putPod(kube.server, { name: 'p2', node: 'n2' });
    await until('p2 is one again', () => followed.ofNode('n2') !== undefined);
    kube.server.store.delete('pods', namespace, 'p2');
    await until('p2 is gone', () => followed.ofNode('n2') === undefined);
    expect(changes).toBe(7);
    unsubscribe();
    expect(verbs()).toEqual(['list', 'watch']);
    expect(messages).toEqual([]);
  });
});

describe('the watch', () => {
  test('waits for an API server that is not up yet', async () => {
    await kube.server.stop();
    const followed = follow();
    expect(followed.synced).toBe(false);
    expect(followed.silentForMs()).toBe(Infinity);
    await expect(followed.whenSynced(200)).rejects.toMatchObject({ kind: 'unavailable' });
    await kube.server.restart();
    await followed.whenSynced(5000);
    expect(followed.ofNode('n1')).toBeDefined();
  });

  test('says what is missing when it is forbidden, and starts once it is allowed', async () => {
    const lift = kube.server.inject({
      answer: { kind: 'status', code: 403, reason: 'Forbidden' },
    });
    const followed = follow();
    await until('it was refused', () => messages.length > 0);
    await expect(followed.whenSynced(50)).rejects.toMatchObject({
      kind: 'forbidden',
      message: expect.stringContaining('resources [pods], verbs [list]') as unknown,
    });
    // It is said once, not at each try.
    await until('it was tried again', () => kube.server.requests.length > 4);
    expect(messages).toEqual(['watch failed, trying again']);
    lift();
    await followed.whenSynced(5000);
    expect(messages).toContain('api server answers again');
  });

  test('goes on where it was after a restart, and keeps what it knows meanwhile', async () => {
    const followed = await following();
    await kube.server.stop();
    putPod(kube.server, { name: 'p2', node: 'n2' });
    kube.server.store.delete('pods', namespace, 'p1');
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(followed.ofNode('n1')).toBeDefined();
    expect(followed.silentForMs()).toBeGreaterThan(100);
    await kube.server.restart();
    await until('p2 is there', () => followed.ofNode('n2') !== undefined);
    await until('p1 is gone', () => followed.ofNode('n1') === undefined);
    expect(verbs().filter((verb) => verb === 'list')).toHaveLength(1);
    expect(followed.silentForMs()).toBeLessThan(5000);
  });

  test('is renewed when it says nothing for long, as over a half-open connection', async () => {
    const followed = await following({ silenceMs: 300 });
    kube.server.silenceWatches();
    putPod(kube.server, { name: 'p2', node: 'n2' });
    await until('p2 is there', () => followed.ofNode('n2') !== undefined);
    expect(verbs().filter((verb) => verb === 'list')).toHaveLength(1);
    await until('the dead one is closed', () => kube.server.openWatches === 1);
  });

  test('is renewed when the answer does not even begin', async () => {
    kube.server.inject({ verb: 'watch', times: 1, answer: { kind: 'hang' } });
    const followed = follow({ silenceMs: 300 });
    await followed.whenSynced(5000);
    putPod(kube.server, { name: 'p2', node: 'n2' });
    await until('p2 is there', () => followed.ofNode('n2') !== undefined);
  });

  test('is renewed regularly, from the version of the last bookmark', async () => {
    const followed = await following({ durationMs: 1000 });
    const from = kube.server.store.version;
    // Changes that this watch does not see.
    for (let i = 0; i < 5; i += 1) putPod(kube.server, { name: `x${i}`, labels: {} });
    await until('it is renewed', () => verbs().filter((verb) => verb === 'watch').length === 2);
    expect(kube.server.requests.at(-1)?.url).toContain(`resourceVersion=${from + 5}&`);
    expect(followed.silentForMs()).toBeLessThan(5000);
    expect(messages).toEqual([]);
  });

  test('is not asked for without a pause when it ends at once', async () => {
    kube.server.inject({ verb: 'watch', answer: { kind: 'raw', code: 200, body: '' } });
    const followed = follow({ pauseMs: 100 });
    await followed.whenSynced(5000);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(verbs().length).toBeLessThan(8);
  });

  const gone: [name: string, cause: () => void][] = [
    [
      'before it begins',
      () => {
        kube.server.store.compact();
        kube.server.cutConnections();
      },
    ],
    [
      'while it runs',
      () => {
        const object = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' };
        kube.server.sendOnWatches(`${JSON.stringify({ type: 'ERROR', object })}\n`);
      },
    ],
  ];
  test.each(gone)('lists anew when its version is too old %s', async (_name, cause) => {
    const followed = await following();
    kube.server.silenceWatches();
    kube.server.store.delete('pods', namespace, 'p1');
    putPod(kube.server, { name: 'p2', node: 'n2' });
    cause();
    await until('p2 is there', () => followed.ofNode('n2') !== undefined);
    expect(followed.ofNode('n1')).toBeUndefined();
    expect(verbs().filter((verb) => verb === 'list')).toHaveLength(2);
  });

  const garbage: [name: string, line: string][] = [
    ['no JSON', 'hello\n'],
    ['an event of no type', '{"object":{}}\n'],
    ['an event without a version', '{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n'],
    ['an error that is no Status', '{"type":"ERROR","object":"oops"}\n'],
  ];
  test.each(garbage)('lists anew after %s', async (_name, line) => {
    const followed = await following();
    kube.server.sendOnWatches(line);
    putPod(kube.server, { name: 'p2', node: 'n2' });
    await until('p2 is there', () => followed.ofNode('n2') !== undefined);
    await until('it was listed', () => verbs().filter((verb) => verb === 'list').length === 2);
    expect(messages[0]).toBe('watch failed, trying again');
  });

  test('leaves out an object that it can not read, and only that', async () => {
    kube.server.store.put('pods', {
      metadata: { name: 'odd', namespace, labels: { app: 'volumedriver' } },
      spec: { nodeName: 7 },
      status: {},
    });
    const followed = await following();
    expect(followed.list()).toHaveLength(1);
    expect(messages).toEqual(['object left out']);
  });

  test('takes an event that comes in pieces, and two in one', async () => {
    const followed = await following();
    const { version } = kube.server.store;
    const event = (name: string): string =>
      `${JSON.stringify({
        type: 'ADDED',
        object: {
          metadata: { name, uid: name, resourceVersion: `${version}` },
          spec: { nodeName: `node-of-${name}-ü` },
          status: {},
        },
      })}\n`;
    const text = event('a') + event('b');
    const bytes = Buffer.from(text);
    const cut = bytes.indexOf(0xbc);
    kube.server.sendOnWatches(bytes.subarray(0, cut));
    await new Promise((resolve) => setTimeout(resolve, 30));
    kube.server.sendOnWatches(bytes.subarray(cut));
    await until('both are there', () => followed.list().length === 3);
    expect(followed.ofNode('node-of-a-ü')).toBeDefined();
  });

  test('closes while it lists, watches or pauses', async () => {
    const lift = kube.server.inject({ answer: { kind: 'hang' } });
    const listing = follow();
    const synced = expect(listing.whenSynced(5000)).rejects.toMatchObject({ kind: 'unavailable' });
    await listing.close();
    await synced;
    lift();
    await (await following()).close();
    await until('nothing is open', () => kube.server.openWatches === 0);
    await kube.server.stop();
    const pausing = follow({ pauseMs: 60_000, pauseMsMax: 60_000 });
    await until('it failed', () => messages.length > 0);
    await pausing.close();
  });
});
