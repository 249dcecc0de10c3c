import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  driverName,
  namespace,
  startKubeFixture,
  type KubeFixture,
} from '../../test/support/kube-fixture.ts';
import { Registrations } from './registrations.ts';

let kube: KubeFixture;
let registrations: Registrations;
const a = { backendId: '00000000aa', nodeId: 'n1', shared: false };
const moved = { ...a, nodeId: 'n7' };
const mayMove = (): Promise<boolean> => Promise.resolve(true);
const b = { backendId: '00000000bb', nodeId: 'n2', shared: false };

beforeEach(async () => {
  kube = await startKubeFixture({ callTimeoutMs: 1000 });
  registrations = new Registrations({ cluster: kube.cluster, namespace, driverName });
});

afterEach(async () => {
  await kube.close();
});

function verbs(): string[] {
  return kube.server.requests.map(({ verb }) => verb);
}

describe('a registration', () => {
  test('is a ConfigMap with the label of the driver', async () => {
    expect(await registrations.get(a.backendId)).toBeUndefined();
    expect(await registrations.ensure(a)).toEqual({ ...a, forgotten: false });
    expect(await registrations.get(a.backendId)).toEqual({ ...a, forgotten: false });
    expect(kube.server.store.list({ plural: 'configmaps' })).toEqual([
      expect.objectContaining({
        metadata: expect.objectContaining({
          name: 'csi-volumedriver-io-00000000aa',
          namespace,
          labels: { 'volumedriver.io/driver': driverName },
        }) as unknown,
        data: { backendId: '00000000aa', nodeId: 'n1', shared: 'false', forgotten: 'false' },
      }),
    ]);
  });

  test('is written once', async () => {
    await registrations.ensure(a);
    kube.server.requests.length = 0;
    await registrations.ensure(a);
    expect(verbs()).toEqual(['get']);
  });

  test('stays with its node when another one has a copy of the disk', async () => {
    await registrations.ensure(a);
    expect(await registrations.ensure(moved)).toEqual({ ...a, forgotten: false });
    expect(await registrations.list()).toEqual([{ ...a, forgotten: false }]);
  });

  test('follows a disk to another node, and stays forgotten there', async () => {
    await registrations.ensure(a);
    await registrations.forget('n1');
    expect(await registrations.ensure(moved, mayMove)).toEqual({ ...moved, forgotten: true });
    expect(await registrations.remember('n1')).toEqual([]);
    expect(await registrations.remember('n7')).toEqual([{ ...moved, forgotten: false }]);
  });

  test('does not move from a node that it moved to meanwhile', async () => {
    await registrations.ensure(a);
    const left: string[] = [];
    const now = await registrations.ensure(moved, async ({ nodeId }) => {
      left.push(nodeId);
      if (nodeId === 'n1') await registrations.ensure({ ...a, nodeId: 'n3' }, mayMove);
      return nodeId === 'n1';
    });
    expect(left).toEqual(['n1', 'n3']);
    expect(now).toEqual({ ...a, nodeId: 'n3', forgotten: false });
  });

  test('is written by many at once', async () => {
    const all = await Promise.all(
      Array.from({ length: 8 }, async () => await registrations.ensure(a)),
    );
    expect(new Set(all.map((one) => JSON.stringify(one))).size).toBe(1);
    expect(await registrations.list()).toHaveLength(1);
  });

  test('does not lose the mark that somebody sets while it moves', async () => {
    await registrations.ensure(a);
    const lift = kube.server.inject({
      verb: 'update',
      times: 1,
      answer: { kind: 'slow', ms: 200 },
    });
    const moving = registrations.ensure(moved, mayMove);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await registrations.forget('n1');
    expect(await moving).toEqual({ ...moved, forgotten: true });
    lift();
  });

  test('gives up after some conflicts', async () => {
    await registrations.ensure(a);
    kube.server.inject({
      verb: 'update',
      answer: { kind: 'status', code: 409, reason: 'Conflict' },
    });
    await expect(registrations.ensure(moved, mayMove)).rejects.toMatchObject({
      kind: 'conflict',
    });
    expect(verbs().filter((verb) => verb === 'update')).toHaveLength(5);
  });

  test('is found although the answer to its creation was lost', async () => {
    kube.server.store.put('configmaps', {
      metadata: {
        name: 'csi-volumedriver-io-00000000aa',
        namespace,
        labels: { 'volumedriver.io/driver': driverName },
      },
      data: { ...a, shared: 'false', forgotten: 'false' },
    });
    const notThere = JSON.stringify({
      kind: 'Status',
      reason: 'NotFound',
      details: { name: 'csi-volumedriver-io-00000000aa' },
    });
    kube.server.inject({
      verb: 'get',
      times: 1,
      answer: { kind: 'raw', code: 404, body: notThere },
    });
    expect(await registrations.ensure(a)).toEqual({ ...a, forgotten: false });
    expect(verbs()).toEqual(['get', 'create', 'get']);
  });
});

describe('the list', () => {
  test('has those of this driver only, ordered, the forgotten ones too', async () => {
    await registrations.ensure(b);
    await registrations.ensure(a);
    const other = new Registrations({ cluster: kube.cluster, namespace, driverName: 'other' });
    await other.ensure({ ...a, nodeId: 'n9' });
    await registrations.forget('n2');
    expect(await registrations.list()).toEqual([
      { ...a, forgotten: false },
      { ...b, forgotten: true },
    ]);
  });

  const damaged: [name: string, data: object | undefined][] = [
    ['no data', undefined],
    ['no node', { backendId: 'x', shared: 'false', forgotten: 'false' }],
    ['a strange flag', { backendId: 'x', nodeId: 'n1', shared: 'false', forgotten: 'maybe' }],
  ];
  test.each(damaged)('fails when one has %s: skipping it could lose volumes', async (_, data) => {
    await registrations.ensure(a);
    kube.server.store.put('configmaps', {
      metadata: { name: 'odd', namespace, labels: { 'volumedriver.io/driver': driverName } },
      ...(data === undefined ? {} : { data }),
    });
    await expect(registrations.list()).rejects.toMatchObject({
      kind: 'protocol',
      message: expect.stringContaining('ConfigMap odd') as unknown,
    });
  });

  test("does not take somebody else's ConfigMap for a registration", async () => {
    kube.server.store.put('configmaps', {
      metadata: { name: 'csi-volumedriver-io-00000000aa', namespace },
      data: { ...a, shared: 'false', forgotten: 'false' },
    });
    await expect(registrations.get(a.backendId)).rejects.toMatchObject({ kind: 'protocol' });
    await expect(registrations.ensure(a)).rejects.toMatchObject({ kind: 'protocol' });
  });
});

describe('a node', () => {
  test('is forgotten with all its backends, and remembered', async () => {
    const second = { ...b, nodeId: 'n1' };
    await registrations.ensure(a);
    await registrations.ensure({ backendId: '00000000cc', nodeId: 'n1', shared: true });
    await registrations.ensure(second);
    const marked = [
      { ...a, forgotten: true },
      { ...second, forgotten: true },
    ];
    expect(await registrations.forget('n1')).toEqual(marked);
    expect(await registrations.forget('n1')).toEqual(marked);
    expect(await registrations.get('00000000cc')).toMatchObject({ forgotten: false });
    expect(await registrations.remember('n1')).toEqual(
      marked.map((one) => ({ ...one, forgotten: false })),
    );
    expect(await registrations.forget('n9')).toEqual([]);
  });
});
