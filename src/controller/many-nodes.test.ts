/** The controller over several nodes, each with a backend of its own, as in a Kubernetes cluster. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { MemoryCluster, type MemoryNode } from '../../test/support/memory-cluster.ts';
import {
  ControllerPublishVolumeRequest,
  CreateSnapshotRequest,
  CreateVolumeRequest,
  GetCapacityRequest,
  ListSnapshotsRequest,
  VolumeCapability_AccessMode_Mode as Mode,
  type DeepPartial,
  type Volume,
  type VolumeCapability,
} from '../api/generated/csi.ts';
import { VolumeError } from '../volumes/errors.ts';
import { createControllerService, type OfferedControllerHandlers } from './controller-service.ts';
import type { KubernetesVolumedrivers } from './kubernetes-volumedrivers.ts';
import { kubernetesNodes } from './kubernetes-nodes.ts';

const gibibyte = 1024 ** 3;
const topologyKey = 'csi.volumedriver.io/node';
const context = { signal: new AbortController().signal };
const volumeCapability: VolumeCapability = {
  accessMode: { mode: Mode.SINGLE_NODE_SINGLE_WRITER },
  accessType: { $case: 'mount', value: { fsType: 'ext4', mountFlags: [], volumeMountGroup: '' } },
};

let cluster: MemoryCluster;
let n1: MemoryNode;
let n2: MemoryNode;
let n3: MemoryNode;
let controller: OfferedControllerHandlers;
const open: KubernetesVolumedrivers[] = [];

function openController(): OfferedControllerHandlers {
  const volumedrivers = cluster.openVolumedrivers();
  open.push(volumedrivers);
  return createControllerService({
    driverName: 'csi.volumedriver.io',
    volumedrivers,
    nodes: kubernetesNodes(cluster),
    overcommit: 10,
    attachLimit: 3,
    deletesUnpublishedOnly: true,
  });
}

beforeEach(async () => {
  cluster = new MemoryCluster();
  // Backends in another order than nodes.
  n1 = cluster.addNode('n1', 'bb');
  n2 = cluster.addNode('n2', 'aa');
  n3 = cluster.addNode('n3', 'cc');
  controller = openController();
  await cluster.clock.advance(0);
});

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

const at = (nodeId: string) => ({ segments: { [topologyKey]: nodeId } });

function on(requisite: string[], preferred: string[] = []): DeepPartial<CreateVolumeRequest> {
  return {
    accessibilityRequirements: {
      requisite: requisite.map(at),
      preferred: preferred.map(at),
    },
  };
}

async function create(
  name: string,
  changes: DeepPartial<CreateVolumeRequest> = {},
): Promise<Volume> {
  const request = CreateVolumeRequest.fromPartial({
    name,
    volumeCapabilities: [volumeCapability],
    capacityRange: { requiredBytes: gibibyte },
    ...changes,
  });
  const { volume } = await controller.createVolume(request, context);
  if (volume === undefined) throw new Error('no volume');
  return volume;
}

async function publish(volumeId: string, nodeId: string): Promise<void> {
  const request = { volumeId, nodeId, volumeCapability };
  await controller.controllerPublishVolume(
    ControllerPublishVolumeRequest.fromPartial(request),
    context,
  );
}

async function unpublish(volumeId: string, nodeId: string): Promise<void> {
  await controller.controllerUnpublishVolume({ volumeId, nodeId, secrets: {} }, context);
}

async function remove(volumeId: string): Promise<void> {
  await controller.deleteVolume({ volumeId, secrets: {} }, context);
}

async function snapshot(sourceVolumeId: string, name: string): Promise<string> {
  const request = CreateSnapshotRequest.fromPartial({ sourceVolumeId, name });
  const answer = await controller.createSnapshot(request, context);
  return answer.snapshot?.snapshotId ?? '';
}

function nodeOf(volume: Volume): string | undefined {
  return volume.accessibleTopology[0]?.segments[topologyKey];
}

async function stop(node: MemoryNode): Promise<void> {
  node.running = false;
  await cluster.clock.advance(11_000);
}

const unavailable = (node: string) => ({
  code: 'UNAVAILABLE',
  message: expect.stringContaining(`vdctl node forget ${node}`),
});

describe('CreateVolume', () => {
  const places: { name: string; where: DeepPartial<CreateVolumeRequest>; node: string }[] = [
    { name: 'the only node that is requisite', where: on(['n3']), node: 'n3' },
    { name: 'the most preferred', where: on(['n1', 'n2', 'n3'], ['n3', 'n1']), node: 'n3' },
    { name: 'a requisite one, whatever else is preferred', where: on(['n1'], ['n2']), node: 'n1' },
    { name: 'the first by backend without a wish', where: {}, node: 'n2' },
  ];
  test.each(places)('puts it on $name', async ({ where, node }) => {
    const volume = await create('data', where);
    expect(nodeOf(volume)).toBe(node);
    expect(await create('data', where)).toEqual(volume);
  });

  test('its backend is registered before it answers', async () => {
    const { volumeId } = await create('data', on(['n3']));
    expect(volumeId).toMatch(/^cc\./);
    expect(cluster.registrations.get('cc')).toMatchObject({ nodeId: 'n3', forgotten: false });
  });

  test('finds a volume of this name on any node that may have it, not only on the preferred', async () => {
    const first = await create('data', on(['n1']));
    expect(await create('data', on(['n1', 'n2', 'n3'], ['n2']))).toEqual(first);
  });

  test('a node that may have the name and does not answer is UNAVAILABLE, never a second volume', async () => {
    await stop(n1);
    await expect(create('data', on(['n1', 'n2'], ['n2']))).rejects.toMatchObject(unavailable('n1'));
    expect((await n2.volumes.listVolumes({})).items).toEqual([]);
    await create('data', on(['n2', 'n3']));
  });

  test('what another node has is answered although one is away', async () => {
    const first = await create('data', on(['n2']));
    await stop(n1);
    expect(await create('data', on(['n1', 'n2']))).toEqual(first);
  });

  test('goes on to the next node when one has too little room', async () => {
    cluster.addNode('small', '00', { capacityBytes: gibibyte / 16 });
    await cluster.clock.advance(0);
    expect(nodeOf(await create('data', on(['small', 'n3'], ['small'])))).toBe('n3');
    await expect(create('more', on(['small']))).rejects.toMatchObject({
      code: 'OUT_OF_SPACE',
      message: expect.stringContaining('small has 67108864'),
    });
    const fits = { ...on(['small']), capacityRange: { requiredBytes: (10 * gibibyte) / 16 } };
    expect(nodeOf(await create('fits', fits))).toBe('small');
  });

  test('a node without a volumedriver is OUT_OF_SPACE, one whose pod has just started UNAVAILABLE', async () => {
    await expect(create('data', on(['n9']))).rejects.toMatchObject({
      code: 'OUT_OF_SPACE',
      message: expect.stringContaining('n9'),
    });
    const request = GetCapacityRequest.fromPartial({ accessibleTopology: at('n9') });
    expect((await controller.getCapacity(request, context)).maximumVolumeSize).toBe(0);
    const n9 = cluster.addNode('n9', '99', { running: false });
    await expect(create('data', on(['n9']))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const capacity = controller.getCapacity(request, context);
    await expect(capacity).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    n9.running = true;
    await cluster.clock.advance(6_000);
    expect(nodeOf(await create('data', on(['n9'])))).toBe('n9');
  });

  test('two controllers asked at the same time answer one volume', async () => {
    const other = openController();
    const mine = controller;
    const request = CreateVolumeRequest.fromPartial({
      name: 'data',
      volumeCapabilities: [volumeCapability],
      ...on(['n1', 'n2'], ['n1']),
    });
    const answers = await Promise.all(
      [mine, other].map((one) => one.createVolume(request, context)),
    );
    expect(new Set(answers.map(({ volume }) => volume?.volumeId)).size).toBe(1);
  });

  describe('from a source', () => {
    const kinds = ['volume', 'snapshot'] as const;
    type Kind = (typeof kinds)[number];

    async function source(kind: Kind): Promise<DeepPartial<CreateVolumeRequest>> {
      const { volumeId } = await create('source', on(['n2']));
      const type =
        kind === 'volume'
          ? { $case: 'volume' as const, value: { volumeId } }
          : { $case: 'snapshot' as const, value: { snapshotId: await snapshot(volumeId, 's') } };
      return { volumeContentSource: { type } };
    }

    test.each(kinds)('it is where its %s is, and may be larger', async (kind) => {
      const from = await source(kind);
      const range = { capacityRange: { requiredBytes: 2 * gibibyte } };
      const volume = await create('copy', { ...from, ...range, ...on(['n1', 'n2'], ['n1']) });
      expect(nodeOf(volume)).toBe('n2');
      expect(volume.capacityBytes).toBe(2 * gibibyte);
    });

    test.each(kinds)(
      'of a %s elsewhere, it is OUT_OF_SPACE naming the right node',
      async (kind) => {
        const from = await source(kind);
        await expect(create('copy', { ...from, ...on(['n1', 'n3']) })).rejects.toMatchObject({
          code: 'OUT_OF_SPACE',
          message: expect.stringContaining('can only be on node n2'),
        });
      },
    );

    test.each(kinds)('of a %s on a node that is away, it is UNAVAILABLE', async (kind) => {
      const from = await source(kind);
      await stop(n2);
      await expect(create('copy', { ...from, ...on(['n2']) })).rejects.toMatchObject(
        unavailable('n2'),
      );
    });

    test.each([
      ['volume', 'VOLUME_NOT_FOUND'],
      ['snapshot', 'SNAPSHOT_NOT_FOUND'],
    ] as const)('of a %s of a forgotten node, it is not found', async (kind, code) => {
      const from = await source(kind);
      await stop(n2);
      cluster.mark('n2', true);
      await cluster.clock.advance(6_000);
      await expect(create('copy', { ...from, ...on(['n1']) })).rejects.toMatchObject({ code });
    });

    test('of a backend that nobody knows, it is not found', async () => {
      const type = { $case: 'snapshot' as const, value: { snapshotId: 'dd.unknown' } };
      await expect(create('copy', { volumeContentSource: { type } })).rejects.toMatchObject({
        code: 'SNAPSHOT_NOT_FOUND',
      });
    });
  });
});

describe('a node that is away', () => {
  test('keeps its volumes: calls for them are UNAVAILABLE and say what to do', async () => {
    const { volumeId } = await create('data', on(['n1']));
    await stop(n1);
    const get = controller.controllerGetVolume({ volumeId }, context);
    await expect(get).rejects.toMatchObject(unavailable('n1'));
    await expect(remove(volumeId)).rejects.toMatchObject(unavailable('n1'));
    await expect(publish(volumeId, 'n1')).rejects.toMatchObject(unavailable('n1'));
    n1.running = true;
    await cluster.clock.advance(3_000);
    await publish(volumeId, 'n1');
  });

  test('fails lists, from which somebody would conclude that its volumes are gone', async () => {
    await stop(n1);
    const list = controller.listVolumes({ maxEntries: 0, startingToken: '' }, context);
    await expect(list).rejects.toMatchObject(unavailable('n1'));
  });

  test('has no capacity to tell, while the others have', async () => {
    await stop(n1);
    const capacity = async (node: string): Promise<number> => {
      const request = GetCapacityRequest.fromPartial({ accessibleTopology: at(node) });
      return (await controller.getCapacity(request, context)).availableCapacity;
    };
    await expect(capacity('n1')).rejects.toMatchObject(unavailable('n1'));
    expect(await capacity('n2')).toBe(2 ** 40);
    expect(await capacity('n9')).toBe(0);
  });

  test('does not take a volume from anybody until somebody says that it is gone', async () => {
    const { volumeId } = await create('data', on(['n1']));
    await publish(volumeId, 'n1');
    await stop(n1);
    await expect(unpublish(volumeId, 'n1')).rejects.toMatchObject(unavailable('n1'));
    cluster.gone.add('n1');
    await unpublish(volumeId, 'n1');
    cluster.apiServerAway = true;
    await expect(unpublish(volumeId, 'n1')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('when it returns, a volume that was unpublished meanwhile can be deleted', async () => {
    const { volumeId } = await create('data', on(['n1']));
    await publish(volumeId, 'n1');
    await stop(n1);
    cluster.gone.add('n1');
    await unpublish(volumeId, 'n1');
    n1.running = true;
    await cluster.clock.advance(3_000);
    n1.volumes.setClients(volumeId, 1);
    await expect(remove(volumeId)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
    n1.volumes.setClients(volumeId, 0);
    await remove(volumeId);
    expect((await n1.volumes.listVolumes({})).items).toEqual([]);
  });

  test('when it is forgotten, its volumes count as deleted, and lists go on without it', async () => {
    const { volumeId } = await create('data', on(['n1']));
    const snapshotId = await snapshot(volumeId, 'nightly');
    await create('other', on(['n3']));
    await stop(n1);
    cluster.mark('n1', true);
    await cluster.clock.advance(6_000);
    await remove(volumeId);
    await controller.deleteSnapshot({ snapshotId, secrets: {} }, context);
    await unpublish(volumeId, 'n1');
    await expect(publish(volumeId, 'n1')).rejects.toMatchObject({
      code: 'VOLUME_NOT_FOUND',
      message: expect.stringContaining('forgotten'),
    });
    const { entries } = await controller.listVolumes({ maxEntries: 0, startingToken: '' }, context);
    expect(entries).toHaveLength(1);
    await expect(create('new', on(['n1']))).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
  });

  test('when it returns forgotten, it is used again only after it was remembered', async () => {
    const { volumeId } = await create('data', on(['n1']));
    cluster.mark('n1', true);
    cluster.replacePod(n1);
    await cluster.clock.advance(20_000);
    await expect(create('new', on(['n1']))).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
    cluster.mark('n1', false);
    await cluster.clock.advance(20_000);
    await create('new', on(['n1']));
    await controller.controllerGetVolume({ volumeId }, context);
  });
});

describe('ids of no backend', () => {
  const ids = ['', 'aa', 'aa.', '.x', 'dd.x', 'dd:x.y'].filter((id) => id !== '');
  test.each(ids)('%s: nothing to delete or unpublish, and nothing found', async (id) => {
    await remove(id);
    await controller.deleteSnapshot({ snapshotId: id, secrets: {} }, context);
    await unpublish(id, 'n1');
    await expect(publish(id, 'n1')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
    await expect(snapshot(id, 's')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
    const get = controller.getSnapshot({ snapshotId: id, secrets: {} }, context);
    await expect(get).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
  });

  test('while a volumedriver has not told its backend, it may be the one', async () => {
    const { volumeId } = await create('data', on(['n1']));
    cluster.registrations.delete('bb');
    n1.running = false;
    cluster.replacePod(n1);
    await cluster.clock.advance(20_000);
    await expect(remove(volumeId)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('n1'),
    });
    n1.running = true;
    await cluster.clock.advance(20_000);
    await remove(volumeId);
    expect((await n1.volumes.listVolumes({})).items).toEqual([]);
  });
});

describe('ControllerPublishVolume', () => {
  test('to a node that is not the volume’s, or no node, is refused', async () => {
    const { volumeId } = await create('data', on(['n1']));
    await expect(publish(volumeId, 'n2')).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message: expect.stringContaining('n1'),
    });
    await expect(publish(volumeId, 'n9')).rejects.toMatchObject({ code: 'NODE_NOT_FOUND' });
  });

  test('stops at the attach limit, and repeats what is published', async () => {
    const ids: string[] = [];
    for (const name of ['a', 'b', 'c', 'd']) ids.push((await create(name, on(['n1']))).volumeId);
    const [first = '', second = '', third = '', last = ''] = ids;
    for (const id of [first, second, third]) await publish(id, 'n1');
    await expect(publish(last, 'n1')).rejects.toMatchObject({ code: 'LIMIT_REACHED' });
    await publish(third, 'n1');
    await unpublish(first, 'n1');
    await publish(last, 'n1');
  });
});

describe('lists', () => {
  async function listAll(maxEntries: number, between?: () => Promise<void>): Promise<string[]> {
    const found: string[] = [];
    let startingToken = '';
    do {
      const page = await controller.listVolumes({ maxEntries, startingToken }, context);
      expect(page.entries.length).toBeLessThanOrEqual(maxEntries);
      found.push(...page.entries.map(({ volume }) => volume?.volumeId ?? ''));
      startingToken = page.nextToken;
      await between?.();
    } while (startingToken !== '');
    return found;
  }

  const nodes = ['n1', 'n1', 'n1', 'n2', 'n3', 'n3'];

  async function createAll(): Promise<string[]> {
    const ids: string[] = [];
    for (const [index, node] of nodes.entries()) {
      ids.push((await create(`v${index}`, on([node]))).volumeId);
    }
    return ids.sort();
  }

  test.each([1, 2, 3, 5, 6, 100])('page over backends, %i at a time', async (maxEntries) => {
    const ids = await createAll();
    expect(await listAll(maxEntries)).toEqual(ids);
  });

  test('go on when what they stopped at is deleted, and when its node is forgotten', async () => {
    const ids = await createAll();
    const first = await controller.listVolumes({ maxEntries: 2, startingToken: '' }, context);
    expect(first.nextToken).toMatch(/^bb:/);
    for (const id of ids.filter((one) => one.startsWith('bb'))) await remove(id);
    const second = await controller.listVolumes(
      { maxEntries: 9, startingToken: first.nextToken },
      context,
    );
    expect(second.entries).toHaveLength(2);
    cluster.mark('n1', true);
    await cluster.clock.advance(6_000);
    const third = await controller.listVolumes(
      { maxEntries: 9, startingToken: first.nextToken },
      context,
    );
    expect(third).toEqual(second);
  });

  test.each(['invalid-token', 'bb:invalid', ':', ':x'])('token %s is of nobody', async (token) => {
    const list = controller.listVolumes({ maxEntries: 0, startingToken: token }, context);
    await expect(list).rejects.toMatchObject({ code: 'BAD_PAGE_TOKEN' });
  });

  test('of snapshots ask only the backend that a filter names', async () => {
    const { volumeId } = await create('data', on(['n1']));
    const snapshotId = await snapshot(volumeId, 'nightly');
    const other = await snapshot((await create('other', on(['n2']))).volumeId, 'weekly');
    const list = async (filter: DeepPartial<ListSnapshotsRequest>): Promise<string[]> => {
      const request = ListSnapshotsRequest.fromPartial(filter);
      const { entries } = await controller.listSnapshots(request, context);
      return entries.map((entry) => entry.snapshot?.snapshotId ?? '');
    };
    expect(await list({})).toEqual([other, snapshotId]);
    await stop(n2);
    expect(await list({ snapshotId })).toEqual([snapshotId]);
    expect(await list({ sourceVolumeId: volumeId })).toEqual([snapshotId]);
    expect(await list({ snapshotId: 'dd.x' })).toEqual([]);
    await expect(list({})).rejects.toMatchObject(unavailable('n2'));
    await expect(list({ snapshotId: other })).rejects.toMatchObject(unavailable('n2'));
  });
});

describe('health', () => {
  test('tells what is halted, damaged, unreachable and forgotten, of any node', async () => {
    const halted = (await create('halted', on(['n1']))).volumeId;
    const damaged = (await create('damaged', on(['n2']))).volumeId;
    const far = (await create('far', on(['n3']))).volumeId;
    const reasons = async (volumeId: string): Promise<string[]> => {
      const answer = await controller.controllerGetVolumeHealth({ volumeId, secrets: {} }, context);
      expect(answer.volumeHealth?.volumeId).toBe(volumeId);
      return answer.volumeHealth?.healthStatuses.map(({ reason }) => reason) ?? [];
    };
    expect(await reasons(halted)).toEqual([]);
    n1.volumes.setHalted(halted, 'EIO');
    expect(await reasons(halted)).toEqual(['VolumeHalted']);
    n2.volumes.failNext('getVolume', new VolumeError('CORRUPT', 'a checksum'));
    expect(await reasons(damaged)).toEqual(['VolumeDamaged']);
    const all = { maxEntries: 0, startingToken: '', secrets: {} };
    const { entries } = await controller.controllerListVolumeHealth(all, context);
    expect(entries.map(({ volumeId }) => volumeId)).toEqual([halted]);
    await stop(n3);
    expect(await reasons(far)).toEqual(['VolumedriverUnreachable']);
    cluster.mark('n3', true);
    await cluster.clock.advance(6_000);
    expect(await reasons(far)).toEqual(['NodeForgotten']);
    await expect(reasons('aa.unknown')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
  });
});
