import { beforeEach, describe, expect, test } from '@jest/globals';
import {
  ControllerExpandVolumeRequest,
  ControllerGetCapabilitiesRequest,
  ControllerPublishVolumeRequest,
  ControllerServiceCapability_RPC_Type,
  CreateSnapshotRequest,
  CreateVolumeRequest,
  GetCapacityRequest,
  ListSnapshotsRequest,
  ListVolumesRequest,
  ValidateVolumeCapabilitiesRequest,
  VolumeCapability_AccessMode_Mode as Mode,
  type DeepPartial,
  type Volume,
  type VolumeCapability,
} from '../api/generated/csi.ts';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import { createControllerService, type OfferedControllerHandlers } from './controller-service.ts';
import { volumeBytesDefault } from './capacity-range.ts';
import { staticNodes } from './node-registry.ts';
import { staticVolumedrivers } from './volumedrivers.ts';

const gibibyte = 1024 ** 3;
const context = { signal: new AbortController().signal };
const capability: VolumeCapability = {
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
  accessType: {
    $case: 'mount',
    value: { fsType: 'ext4', mountFlags: [], volumeMountGroup: '' },
  },
};
const topologyKey = 'csi.volumedriver.io/node';

let volumes: MemoryVolumeService;
let controller: OfferedControllerHandlers;

beforeEach(() => {
  useService(new MemoryVolumeService());
});

function useService(service: MemoryVolumeService): void {
  volumes = service;
  controller = createControllerService({
    driverName: 'csi.volumedriver.io',
    volumedrivers: staticVolumedrivers([volumes]),
    nodes: staticNodes(['node-1', 'node-2']),
    overcommit: 10,
    attachLimit: 128,
    deletesUnpublishedOnly: false,
  });
}

async function create(
  name: string,
  changes: DeepPartial<CreateVolumeRequest> = {},
): Promise<Volume> {
  const request = CreateVolumeRequest.fromPartial({
    name,
    volumeCapabilities: [capability],
    ...changes,
  });
  const { volume } = await controller.createVolume(request, context);
  if (volume === undefined) throw new Error('no volume');
  return volume;
}

async function publish(
  volumeId: string,
  changes: Partial<ControllerPublishVolumeRequest> = {},
): Promise<Record<string, string>> {
  const request = ControllerPublishVolumeRequest.fromPartial({
    volumeId,
    nodeId: 'node-1',
    volumeCapability: capability,
  });
  const answer = await controller.controllerPublishVolume({ ...request, ...changes }, context);
  return answer.publishContext;
}

async function unpublish(volumeId: string, nodeId = ''): Promise<void> {
  await controller.controllerUnpublishVolume({ volumeId, nodeId, secrets: {} }, context);
}

async function snapshot(sourceVolumeId: string, name: string): Promise<string> {
  const request = CreateSnapshotRequest.fromPartial({ sourceVolumeId, name });
  const answer = await controller.createSnapshot(request, context);
  return answer.snapshot?.snapshotId ?? '';
}

function fromSnapshot(snapshotId: string): DeepPartial<CreateVolumeRequest> {
  return { volumeContentSource: { type: { $case: 'snapshot', value: { snapshotId } } } };
}

function fromVolume(volumeId: string): DeepPartial<CreateVolumeRequest> {
  return { volumeContentSource: { type: { $case: 'volume', value: { volumeId } } } };
}

describe('CreateVolume', () => {
  test('makes what was asked for, where the backend is', async () => {
    const volume = await create('data', {
      capacityRange: { requiredBytes: gibibyte + 1 },
      parameters: { flushTo: 'backend' },
    });
    expect(volume).toMatchObject({
      capacityBytes: gibibyte + 4096,
      volumeContext: {},
      accessibleTopology: [{ segments: { [topologyKey]: 'node-1' } }],
    });
    expect(await volumes.getVolume(volume.volumeId)).toMatchObject({ flushTo: 'backend' });
  });

  test('a shared backend is reached from everywhere', async () => {
    useService(new MemoryVolumeService({ shared: true }));
    expect(await create('data')).toMatchObject({
      accessibleTopology: [],
      capacityBytes: volumeBytesDefault,
    });
  });

  test('hands the filesystem of the parameters to the node', async () => {
    const volume = await create('data', { parameters: { 'csi.storage.k8s.io/fstype': 'xfs' } });
    expect(volume.volumeContext).toEqual({ fsType: 'xfs' });
  });

  test('repeated, it answers the same volume, even after that grew', async () => {
    const range = { capacityRange: { requiredBytes: gibibyte } };
    const first = await create('data', range);
    expect(await create('data', range)).toEqual(first);
    await volumes.growVolume(first.volumeId, 2 * gibibyte);
    expect(await create('data', range)).toEqual({ ...first, capacityBytes: 2 * gibibyte });
  });

  const conflicts: { name: string; changes: DeepPartial<CreateVolumeRequest> }[] = [
    { name: 'more capacity', changes: { capacityRange: { requiredBytes: 2 * gibibyte } } },
    { name: 'a lower limit', changes: { capacityRange: { limitBytes: gibibyte - 1 } } },
    { name: 'another flushTo', changes: { parameters: { flushTo: 'backend' } } },
  ];
  test.each(conflicts)('the same name with $name is ALREADY_EXISTS', async ({ changes }) => {
    const range = { capacityRange: { requiredBytes: gibibyte } };
    await create('data', range);
    await expect(create('data', { ...range, ...changes })).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });

  test('the same name with another source is ALREADY_EXISTS', async () => {
    const { volumeId } = await create('source');
    await create('data');
    await expect(create('data', fromVolume(volumeId))).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });

  test('clones a volume and restores a snapshot, and says from what', async () => {
    const { volumeId } = await create('source', { capacityRange: { requiredBytes: gibibyte } });
    const snapshotId = await snapshot(volumeId, 'nightly');
    const clone = await create('clone', fromVolume(volumeId));
    expect(clone).toMatchObject({
      capacityBytes: gibibyte,
      contentSource: { type: { $case: 'volume', value: { volumeId } } },
    });
    const restored = await create('restored', {
      ...fromSnapshot(snapshotId),
      capacityRange: { requiredBytes: 2 * gibibyte },
    });
    expect(restored).toMatchObject({
      capacityBytes: 2 * gibibyte,
      contentSource: { type: { $case: 'snapshot', value: { snapshotId } } },
    });
  });

  test('repeated after its source is gone, it answers the same volume', async () => {
    const { volumeId } = await create('source');
    const snapshotId = await snapshot(volumeId, 'nightly');
    const restored = await create('restored', fromSnapshot(snapshotId));
    await controller.deleteSnapshot({ snapshotId, secrets: {} }, context);
    expect(await create('restored', fromSnapshot(snapshotId))).toEqual(restored);
  });

  const topologies = [
    { name: 'its node', requisite: ['node-1'], code: undefined },
    { name: 'its node among others', requisite: ['node-2', 'node-1'], code: undefined },
    { name: 'another node', requisite: ['node-2'], code: 'OUT_OF_SPACE' },
  ];
  test.each(topologies)('honours a requisite of $name', async ({ requisite, code }) => {
    const accessibilityRequirements = {
      requisite: requisite.map((node) => ({ segments: { [topologyKey]: node } })),
      preferred: [],
    };
    const creating = create('data', { accessibilityRequirements });
    if (code === undefined) await creating;
    else await expect(creating).rejects.toMatchObject({ code });
  });

  test('a volumedriver that does not answer is UNAVAILABLE, not a second volume', async () => {
    volumes.failNext('createVolume', new VolumeError('UNAVAILABLE', 'create: no answer'));
    await expect(create('data')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });
});

describe('DeleteVolume', () => {
  test('twice is fine, and snapshots and clones stay', async () => {
    const { volumeId } = await create('data');
    const snapshotId = await snapshot(volumeId, 'nightly');
    const clone = await create('clone', fromVolume(volumeId));
    for (const _ of [1, 2]) await controller.deleteVolume({ volumeId, secrets: {} }, context);
    const { snapshot: found } = await controller.getSnapshot({ snapshotId, secrets: {} }, context);
    expect(found?.sourceVolumeId).toBe(volumeId);
    await controller.controllerGetVolume({ volumeId: clone.volumeId }, context);
    await create('restored', fromSnapshot(snapshotId));
  });

  test('in use it is refused', async () => {
    const { volumeId } = await create('data');
    await publish(volumeId);
    await expect(controller.deleteVolume({ volumeId, secrets: {} }, context)).rejects.toMatchObject(
      { code: 'VOLUME_IN_USE' },
    );
  });

  test('an id that is the name of a volume reaches nothing', async () => {
    const { volumeId } = await create('data');
    await controller.deleteVolume({ volumeId: 'data', secrets: {} }, context);
    await unpublish('data');
    await expect(publish('data')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
    await controller.controllerGetVolume({ volumeId }, context);
  });
});

describe('ControllerPublishVolume', () => {
  test('repeated, it answers the same generation and export', async () => {
    const { volumeId } = await create('data');
    const first = await publish(volumeId);
    expect(first).toMatchObject({ generation: '1', uri: expect.stringContaining('%231') });
    expect(await publish(volumeId)).toEqual(first);
  });

  test('after unpublishing there is a new generation', async () => {
    const { volumeId } = await create('data');
    const first = await publish(volumeId);
    for (const _ of [1, 2]) await unpublish(volumeId, 'node-1');
    const second = await publish(volumeId);
    expect(Number(second['generation'])).toBeGreaterThan(Number(first['generation']));
  });

  test('to the same node in the other mode it is ALREADY_EXISTS', async () => {
    const { volumeId } = await create('data');
    await publish(volumeId);
    await expect(publish(volumeId, { readonly: true })).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });

  test('to another node it names the node that has it', async () => {
    useService(new MemoryVolumeService({ shared: true }));
    const { volumeId } = await create('data');
    await publish(volumeId, { nodeId: 'node-2' });
    await expect(publish(volumeId)).rejects.toMatchObject({
      code: 'VOLUME_IN_USE',
      message: expect.stringContaining('node-2'),
    });
    await unpublish(volumeId);
    await publish(volumeId);
  });

  test('many nodes may read a volume of a shared backend', async () => {
    useService(new MemoryVolumeService({ shared: true }));
    const reader = { ...capability, accessMode: { mode: Mode.MULTI_NODE_READER_ONLY } };
    const { volumeId } = await create('data', { volumeCapabilities: [reader] });
    await publish(volumeId, { volumeCapability: reader });
    await publish(volumeId, { volumeCapability: reader, nodeId: 'node-2' });
    const { status } = await controller.controllerGetVolume({ volumeId }, context);
    expect(status?.publishedNodeIds).toEqual(['node-1', 'node-2']);
    await expect(publish(volumeId)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  });

  test('a node that cannot reach the backend is refused', async () => {
    const { volumeId } = await create('data');
    await expect(publish(volumeId, { nodeId: 'node-2' })).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message: expect.stringContaining('node-1'),
    });
  });

  test('unpublishing what is not there is fine', async () => {
    const { volumeId } = await create('data');
    await unpublish(volumeId, 'node-1');
    await unpublish(volumeId, 'no-such-node');
    await unpublish('memory.unknown', 'node-1');
    expect(await publish(volumeId)).toMatchObject({ generation: '1' });
  });
});

describe('listing', () => {
  test('pages through volumes, with their nodes and condition', async () => {
    const names = ['a', 'b', 'c'];
    for (const name of names) await create(name);
    const first = (await create('a')).volumeId;
    await publish(first);
    volumes.setHalted(first, 'disk full');
    const found: string[] = [];
    let startingToken = '';
    do {
      const page = await controller.listVolumes({ maxEntries: 2, startingToken }, context);
      for (const { volume, status } of page.entries) {
        found.push(volume?.volumeId ?? '');
        const halted = volume?.volumeId === first;
        expect(status?.volumeCondition?.abnormal).toBe(halted);
        expect(status?.publishedNodeIds).toEqual(halted ? ['node-1'] : []);
      }
      startingToken = page.nextToken;
    } while (startingToken !== '');
    expect(new Set(found).size).toBe(names.length);
  });

  test('a page token of nobody is ABORTED, also of the other list', async () => {
    for (const name of ['a', 'b']) await create(name);
    const { nextToken } = await controller.listVolumes(
      { maxEntries: 1, startingToken: '' },
      context,
    );
    const bad = { code: 'BAD_PAGE_TOKEN' };
    const volumesFrom = ListVolumesRequest.fromPartial({ startingToken: 'invalid-token' });
    await expect(controller.listVolumes(volumesFrom, context)).rejects.toMatchObject(bad);
    const snapshotsFrom = ListSnapshotsRequest.fromPartial({ startingToken: nextToken });
    await expect(controller.listSnapshots(snapshotsFrom, context)).rejects.toMatchObject(bad);
  });

  test('filters snapshots by id and source, never by name', async () => {
    const one = (await create('one')).volumeId;
    const two = (await create('two')).volumeId;
    const [first, second] = [await snapshot(one, 'first'), await snapshot(two, 'second')];
    const list = async (filter: DeepPartial<ListSnapshotsRequest>): Promise<string[]> => {
      const request = ListSnapshotsRequest.fromPartial(filter);
      const { entries } = await controller.listSnapshots(request, context);
      return entries.map((entry) => entry.snapshot?.snapshotId ?? '');
    };
    expect(await list({})).toEqual([first, second]);
    expect(await list({ snapshotId: second })).toEqual([second]);
    expect(await list({ sourceVolumeId: one })).toEqual([first]);
    expect(await list({ sourceVolumeId: one, snapshotId: second })).toEqual([]);
    expect(await list({ sourceVolumeId: 'one' })).toEqual([]);
    expect(await list({ snapshotId: 'first' })).toEqual([]);
    expect(await list({ snapshotId: 'unknown' })).toEqual([]);
    expect(await list({ sourceVolumeId: 'unknown' })).toEqual([]);
  });
});

describe('snapshots', () => {
  test('are cut at once and ready when synced', async () => {
    useService(new MemoryVolumeService({ syncDelayMs: 40 }));
    const { volumeId } = await create('data', { capacityRange: { requiredBytes: gibibyte } });
    const request = CreateSnapshotRequest.fromPartial({
      sourceVolumeId: volumeId,
      name: 'nightly',
    });
    const first = (await controller.createSnapshot(request, context)).snapshot;
    expect(first).toMatchObject({
      sourceVolumeId: volumeId,
      sizeBytes: gibibyte,
      readyToUse: false,
    });
    expect(Math.abs(Date.now() - Number(first?.creationTime?.getTime()))).toBeLessThan(60_000);
    await volumes.waitSnapshot({ snapshot: first?.snapshotId ?? '' }, 10);
    const again = (await controller.createSnapshot(request, context)).snapshot;
    expect(again).toEqual({ ...first, readyToUse: true });
  });

  test('the same name of another volume is ALREADY_EXISTS', async () => {
    await snapshot((await create('one')).volumeId, 'nightly');
    const { volumeId } = await create('two');
    await expect(snapshot(volumeId, 'nightly')).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  });

  test('repeated after the volume is gone, it answers the same snapshot', async () => {
    const { volumeId } = await create('data');
    const first = await snapshot(volumeId, 'nightly');
    await controller.deleteVolume({ volumeId, secrets: {} }, context);
    expect(await snapshot(volumeId, 'nightly')).toBe(first);
    await expect(snapshot(volumeId, 'weekly')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
  });

  test('deleting twice, or by name, is fine; by name nothing happens', async () => {
    const { volumeId } = await create('data');
    const snapshotId = await snapshot(volumeId, 'nightly');
    await controller.deleteSnapshot({ snapshotId: 'nightly', secrets: {} }, context);
    await controller.getSnapshot({ snapshotId, secrets: {} }, context);
    for (const _ of [1, 2]) await controller.deleteSnapshot({ snapshotId, secrets: {} }, context);
    await expect(
      controller.getSnapshot({ snapshotId, secrets: {} }, context),
    ).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
  });
});

describe('ControllerExpandVolume', () => {
  test('grows, also in use, and never shrinks', async () => {
    const { volumeId } = await create('data', { capacityRange: { requiredBytes: gibibyte } });
    await publish(volumeId);
    const expand = async (requiredBytes: number): Promise<unknown> => {
      const capacityRange = { requiredBytes, limitBytes: 0 };
      const request = ControllerExpandVolumeRequest.fromPartial({ volumeId, capacityRange });
      return await controller.controllerExpandVolume(request, context);
    };
    const grown = { capacityBytes: 2 * gibibyte, nodeExpansionRequired: true };
    expect(await expand(2 * gibibyte)).toEqual(grown);
    expect(await expand(2 * gibibyte)).toEqual(grown);
    expect(await expand(gibibyte)).toEqual(grown);
  });
});

describe('ValidateVolumeCapabilities', () => {
  const rows: { name: string; changes: DeepPartial<ValidateVolumeCapabilitiesRequest> }[] = [
    {
      name: 'a writer on many nodes',
      changes: {
        volumeCapabilities: [{ ...capability, accessMode: { mode: Mode.MULTI_NODE_MULTI_WRITER } }],
      },
    },
    {
      name: 'readers on many nodes of a backend on one',
      changes: {
        volumeCapabilities: [{ ...capability, accessMode: { mode: Mode.MULTI_NODE_READER_ONLY } }],
      },
    },
    { name: 'an unknown parameter', changes: { parameters: { replicas: '3' } } },
    { name: 'another flushTo', changes: { parameters: { flushTo: 'backend' } } },
    { name: 'a foreign context', changes: { volumeContext: { pool: 'fast' } } },
    { name: 'mutable parameters', changes: { mutableParameters: { iops: '5' } } },
  ];
  test.each(rows)('does not confirm $name', async ({ changes }) => {
    const { volumeId } = await create('data');
    const request = ValidateVolumeCapabilitiesRequest.fromPartial({
      volumeId,
      volumeCapabilities: [capability],
      ...changes,
    });
    const answer = await controller.validateVolumeCapabilities(request, context);
    expect(answer.confirmed).toBeUndefined();
    expect(answer.message).not.toBe('');
  });

  test('confirms what it was given', async () => {
    const { volumeId } = await create('data');
    const request = ValidateVolumeCapabilitiesRequest.fromPartial({
      volumeId,
      volumeCapabilities: [capability],
      parameters: { flushTo: 'local' },
      volumeContext: { 'storage.kubernetes.io/csiProvisionerIdentity': 'x' },
    });
    const { confirmed } = await controller.validateVolumeCapabilities(request, context);
    expect(confirmed).toEqual({
      volumeCapabilities: [capability],
      parameters: { flushTo: 'local' },
      volumeContext: { 'storage.kubernetes.io/csiProvisionerIdentity': 'x' },
      mutableParameters: {},
    });
  });
});

describe('GetCapacity', () => {
  const rows: { name: string; changes: DeepPartial<GetCapacityRequest>; bytes: number }[] = [
    { name: 'anywhere', changes: {}, bytes: 2 ** 40 },
    {
      name: 'on its node',
      changes: { accessibleTopology: { segments: { [topologyKey]: 'node-1' } } },
      bytes: 2 ** 40,
    },
    {
      name: 'on another node',
      changes: { accessibleTopology: { segments: { [topologyKey]: 'node-2' } } },
      bytes: 0,
    },
    {
      name: 'for what is not supported',
      changes: {
        volumeCapabilities: [{ ...capability, accessMode: { mode: Mode.MULTI_NODE_MULTI_WRITER } }],
      },
      bytes: 0,
    },
  ];
  test.each(rows)('$name', async ({ changes, bytes }) => {
    const request = GetCapacityRequest.fromPartial(changes);
    expect((await controller.getCapacity(request, context)).availableCapacity).toBe(bytes);
  });
});

test('every capability has its RPC', async () => {
  const request = ControllerGetCapabilitiesRequest.fromPartial({});
  const { capabilities } = await controller.controllerGetCapabilities(request, context);
  const offered = capabilities.map(({ type }) => type?.value.type);
  expect(new Set(offered).size).toBe(offered.length);
  expect(offered).not.toContain(ControllerServiceCapability_RPC_Type.MODIFY_VOLUME);
  expect(offered).toContain(ControllerServiceCapability_RPC_Type.GET_VOLUME_HEALTH);
});
