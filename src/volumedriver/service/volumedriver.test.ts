/**
 * The real VolumeService: first what every one does, then what needs an engine to show: time, clients, generations,
 * and calls that overlap.
 */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { EngineFixture } from '../../../test/support/engine-fixture.ts';
import { FaultyStore } from '../../../test/support/faulty-store.ts';
import { describeVolumeService } from '../../../test/support/volume-service-contract.ts';
import { VolumeError, type ErrorCode } from '../../volumes/errors.ts';

const mib = 2 ** 20;

describeVolumeService('the engine', async () => {
  const fixture = await EngineFixture.open();
  return {
    service: fixture.service,
    close: () => fixture.close(),
  };
});

let fixture: EngineFixture;
let store: FaultyStore;

beforeEach(async () => {
  fixture = await EngineFixture.open({
    wrapStore: (inner) => {
      store = new FaultyStore(inner);
      return store;
    },
  });
});
afterEach(async () => {
  await fixture.close();
});

async function fails(call: Promise<unknown>, code: ErrorCode): Promise<VolumeError> {
  const error: unknown = await call.then(
    () => new Error('it did not fail'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof VolumeError)) throw error;
  expect({ code: error.code, message: error.message }).toMatchObject({ code });
  return error;
}

/** Lets everything run that waits for no clock. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function cut(volume: string, name: string, timeoutSeconds = 0): Promise<string> {
  return (await fixture.service.createSnapshot({ volume, name, timeoutSeconds })).id;
}

async function create(name: string): Promise<string> {
  return (await fixture.service.createVolume({ name, sizeBytes: mib })).id;
}

function isSlot(key: string): boolean {
  return key.includes('/slots/');
}

describe('the time that a snapshot may take (libovsvolumedriver(7), ovs_snapshot_create)', () => {
  let release: () => void;
  beforeEach(async () => {
    await create('v');
    await cut('v', 'first');
    release = store.blockPuts(isSlot);
  });
  afterEach(() => {
    release();
  });

  test('is none when it is negative: the snapshot is there, and synced later', async () => {
    await cut('v', 's', -1);
    const ref = { volume: 'v', snapshot: 's' };
    expect((await fixture.service.getSnapshot(ref)).synced).toBe(false);
    release();
    expect((await fixture.service.waitSnapshot(ref, 60)).synced).toBe(true);
  });

  test('has no bound when it is zero', async () => {
    let done = false;
    const taken = cut('v', 's', 0).then(() => {
      done = true;
    });
    for (let i = 0; i < 3; i++) {
      await settle();
      fixture.clock.wakeAll();
    }
    expect(done).toBe(false);
    release();
    await taken;
    expect((await fixture.service.getSnapshot({ volume: 'v', snapshot: 's' })).synced).toBe(true);
  });

  test('ends with ETIMEDOUT and without the snapshot when it is positive', async () => {
    const taken = fails(cut('v', 's', 5), 'SNAPSHOT_TIMEOUT');
    await settle();
    fixture.clock.wakeAll();
    expect((await taken).errno).toBe('ETIMEDOUT');
    const error = await fails(
      fixture.service.getSnapshot({ volume: 'v', snapshot: 's' }),
      'SNAPSHOT_NOT_FOUND',
    );
    expect(error.errno).toBe('ENOENT');
    release();
    await cut('v', 's'); // the name is free again
  });

  test('leaves a snapshot that a repeated call merely found', async () => {
    const request = { volume: 'v', name: 's', timeoutSeconds: -1, claimName: true };
    const { id } = await fixture.service.createSnapshot(request);
    const again = fails(
      fixture.service.createSnapshot({ ...request, timeoutSeconds: 5 }),
      'SNAPSHOT_TIMEOUT',
    );
    await settle();
    fixture.clock.wakeAll();
    await again;
    expect((await fixture.service.getSnapshot({ snapshot: id })).name).toBe('s');
  });

  test('is waited for with a bound that leaves it alone', async () => {
    await cut('v', 's', -1);
    const ref = { volume: 'v', snapshot: 's' };
    const waited = fails(fixture.service.waitSnapshot(ref, 5), 'SNAPSHOT_TIMEOUT');
    await settle();
    fixture.clock.wakeAll();
    await waited;
    expect((await fixture.service.getSnapshot(ref)).synced).toBe(false);
  });

  test('does not keep the next snapshot waiting: there is no EBUSY here', async () => {
    await cut('v', 's', -1);
    await cut('v', 't', -1);
    const { items } = await fixture.service.listSnapshots({ volume: 'v' }, {});
    expect(items.map(({ name, synced }) => [name, synced])).toEqual([
      ['first', true],
      ['s', false],
      ['t', false],
    ]);
  });
});

describe('errors have the errno that libovsvolumedriver(7) names', () => {
  beforeEach(async () => {
    await create('v');
    const snapshotId = await cut('v', 's');
    await cut('v', 't');
    const source = { kind: 'snapshot', snapshotId } as const;
    await fixture.service.createVolume({ name: 'clone', sizeBytes: mib, source });
  });

  test.each<[string, string, (service: EngineFixture['service']) => Promise<unknown>]>([
    ['ENOENT', 'a snapshot of no volume', (s) => s.createSnapshot(snapshot('x', 's'))],
    ['EEXIST', 'a snapshot that exists', (s) => s.createSnapshot(snapshot('v', 's'))],
    ['EINVAL', 'a snapshot without a name', (s) => s.createSnapshot(snapshot('v', ''))],
    ['ENOENT', 'a rollback to nothing', (s) => s.rollbackSnapshot(ref('v', 'x'))],
    ['ENOENT', 'a removal of no snapshot', (s) => s.removeSnapshot(ref('v', 'x'), 'strict')],
    ['ENOTEMPTY', 'a removal with a clone', (s) => s.removeSnapshot(ref('v', 's'), 'strict')],
    ['ENOTEMPTY', 'a removal with snapshots', (s) => s.removeVolume('v', 'strict')],
    ['ENOENT', 'a removal of no volume', (s) => s.removeVolume('x', 'strict')],
    ['EINVAL', 'a volume of no size', (s) => s.createVolume({ name: 'w', sizeBytes: 0 })],
    ['EEXIST', 'a volume that exists', (s) => s.createVolume({ name: 'v', sizeBytes: 2 * mib })],
    ['ERANGE', 'a volume that shrinks', (s) => s.growVolume('v', 4096)],
  ])('%s for %s', async (errno, _, call) => {
    await expect(call(fixture.service)).rejects.toMatchObject({ name: 'VolumeError', errno });
  });

  function snapshot(volume: string, name: string) {
    return { volume, name, timeoutSeconds: 0 };
  }
  function ref(volume: string, name: string) {
    return { volume, snapshot: name };
  }
});

describe('a deferred removal', () => {
  test('hides a snapshot until its last clone has gone, then frees its name and data', async () => {
    await create('v');
    const snapshotId = await cut('v', 's');
    const source = { kind: 'snapshot', snapshotId } as const;
    for (const name of ['c1', 'c2']) {
      await fixture.service.createVolume({ name, sizeBytes: mib, source });
    }
    await fixture.service.removeSnapshot({ snapshot: snapshotId }, 'deferred');
    expect((await fixture.service.listSnapshots({ volume: 'v' }, {})).items).toEqual([]);
    await fails(
      fixture.service.createVolume({ name: 'c3', sizeBytes: mib, source }),
      'SNAPSHOT_NOT_FOUND',
    );
    await fixture.service.removeVolume('c1', 'strict');
    expect(hiddenOf('v')).toBe(1);
    await fixture.service.removeVolume('c2', 'strict');
    expect(hiddenOf('v')).toBe(0);
  });

  test('of a volume keeps its snapshots, and frees its name at once', async () => {
    const first = await create('v');
    const snapshotId = await cut('v', 's');
    await fixture.service.removeVolume('v', 'deferred');
    const second = await create('v');
    expect(second).not.toBe(first);
    expect((await fixture.service.getSnapshot({ snapshot: snapshotId })).volumeId).toBe(first);
    await fixture.service.removeSnapshot({ snapshot: snapshotId }, 'strict');
    const slots = await store.list(`volumes/${first.slice(first.indexOf('.') + 1)}/`);
    expect(slots).toEqual([]);
  });

  function hiddenOf(volume: string): number {
    const { catalog } = fixture.service;
    return catalog.stateOf(catalog.find(volume)).snapshots.filter(({ hidden }) => hidden).length;
  }
});

describe('clients', () => {
  test('keep a volume from being removed or rolled back, until they go', async () => {
    const { device, id } = await fixture.createDevice('v', mib);
    await cut('v', 's');
    await fails(fixture.service.removeVolume('v', 'deferred'), 'VOLUME_IN_USE');
    await fails(fixture.service.rollbackSnapshot({ volume: 'v', snapshot: 's' }), 'VOLUME_IN_USE');
    await fails(fixture.service.grant('v', 'n1', { readOnly: false }), 'VOLUME_IN_USE');
    expect((await fixture.service.getVolume('v')).clients).toBe(1);
    await device.close();
    await fixture.service.rollbackSnapshot({ volume: 'v', snapshot: 's' });
    await fixture.service.grant('v', 'n1', { readOnly: false });
    await expect(fixture.openDevice(id)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
  });

  test('of a snapshot that is removed are dropped, and others stay', async () => {
    const { device, id } = await fixture.createDevice('v', mib);
    const snapshotId = await cut('v', 's');
    const reader = await fixture.openDevice(`${id}@${snapshotId}`);
    await expect(reader.write(0, Buffer.alloc(512), { fua: false })).rejects.toMatchObject({
      code: 'READ_ONLY',
    });
    await fixture.service.removeSnapshot({ snapshot: snapshotId }, 'strict');
    await expect(reader.read(0, 512)).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
    expect(device.revoked.aborted).toBe(false);
  });
});

describe('a generation', () => {
  test('fences the clients of the grant that was taken back, and lets nobody in again', async () => {
    const { device, id } = await fixture.createDevice('v', mib);
    await device.close();
    const { service } = fixture;
    const first = await service.grant('v', 'n1', { readOnly: false });
    const { exportName } = await service.getExport({
      kind: 'granted',
      volume: 'v',
      generation: first,
    });
    const client = await fixture.openDevice(exportName);
    await client.write(0, Buffer.alloc(4096, 7), { fua: false });
    await service.revoke('v', 'n1');
    expect(client.revoked.aborted).toBe(true);
    await expect(client.write(0, Buffer.alloc(4096, 8), { fua: false })).rejects.toMatchObject({
      code: 'FENCED',
    });
    await expect(fixture.openDevice(exportName)).rejects.toMatchObject({ code: 'FENCED' });
    const second = await service.grant('v', 'n2', { readOnly: false });
    expect(second).toBeGreaterThan(first);
    await expect(fixture.openDevice(`${id}#${second + 1}`)).rejects.toMatchObject({
      code: 'FENCED',
    });
    const next = await fixture.openDevice(`${id}#${second}`);
    expect(Buffer.concat(await next.read(0, 1))[0]).toBe(7);
  });

  test('survives a restart, and a grant repeated after it is the same', async () => {
    await create('v');
    const generation = await fixture.service.grant('v', 'n1', { readOnly: false });
    fixture = await fixture.restart();
    expect(await fixture.service.grant('v', 'n1', { readOnly: false })).toBe(generation);
    const { service } = fixture;
    const target = { kind: 'granted', volume: 'v', generation } as const;
    expect((await service.getExport(target)).exportName).toMatch(new RegExp(`#${generation}$`));
  });

  test('of a read-only grant opens for reading alone', async () => {
    const { device, id } = await fixture.createDevice('v', mib);
    await device.close();
    const generation = await fixture.service.grant('v', 'n1', { readOnly: true });
    const reader = await fixture.openDevice(`${id}#${generation}`);
    expect(reader.readOnly).toBe(true);
    for (const call of [
      reader.write(0, Buffer.alloc(1), { fua: false }),
      reader.discard(0, 4096, { fua: false }),
      reader.writeZeroes(0, 4096, { fua: false, allocate: false }),
    ]) {
      await expect(call).rejects.toMatchObject({ code: 'READ_ONLY' });
    }
    await fails(fixture.service.beginFormatting('v', generation, 'ext4'), 'READ_ONLY');
  });
});

describe('formatting', () => {
  test.each(['write', 'discard'] as const)('is refused after a %s', async (kind) => {
    const { device } = await fixture.createDevice('v', mib);
    if (kind === 'write') await device.write(0, Buffer.alloc(1), { fua: false });
    else await device.discard(0, 4096, { fua: false });
    await device.close();
    const generation = await fixture.service.grant('v', 'n1', { readOnly: false });
    await fails(fixture.service.beginFormatting('v', generation, 'ext4'), 'NOT_CAPABLE');
  });

  test('that was interrupted may begin again, even with another filesystem', async () => {
    const { device, id } = await fixture.createDevice('v', mib);
    await device.close();
    let generation = await fixture.service.grant('v', 'n1', { readOnly: false });
    await fixture.service.beginFormatting('v', generation, 'ext4');
    const half = await fixture.openDevice(`${id}#${generation}`);
    await half.write(0, Buffer.alloc(4096, 1), { fua: true });
    fixture = await fixture.crash('power');
    generation = await fixture.service.grant('v', 'n1', { readOnly: false });
    expect(await fixture.service.getVolume('v')).toMatchObject({
      written: true,
      formatting: 'ext4',
    });
    await fixture.service.beginFormatting('v', generation, 'xfs');
    await fixture.service.endFormatting('v', generation);
    expect((await fixture.service.getVolume('v')).formatting).toBeNull();
    await fails(fixture.service.beginFormatting('v', generation, 'ext4'), 'NOT_CAPABLE');
  });
});

describe('calls that overlap', () => {
  test('on one volume are refused for now, and reads are not', async () => {
    await create('v');
    const release = store.blockPuts((key) => key.startsWith('snapshots/'));
    const taken = cut('v', 's');
    await settle();
    await fails(fixture.service.growVolume('v', 2 * mib), 'OPERATION_PENDING');
    await fails(fixture.service.grant('v', 'n1', { readOnly: false }), 'OPERATION_PENDING');
    await fails(cut('v', 't'), 'OPERATION_PENDING');
    expect((await fixture.service.getVolume('v')).sizeBytes).toBe(mib);
    await create('w');
    release();
    await taken;
    await fixture.service.growVolume('v', 2 * mib);
  });

  test('on one name are refused for now, and make one volume', async () => {
    const release = store.blockPuts((key) => key.startsWith('names/'));
    const first = create('v');
    await settle();
    await fails(create('v'), 'OPERATION_PENDING');
    await fails(fixture.service.getVolume('v'), 'OPERATION_PENDING'); // and nobody may make it elsewhere
    await fails(fixture.service.getVolume('w'), 'VOLUME_NOT_FOUND');
    release();
    expect(await first).toBe(await create('v'));
    expect((await fixture.service.listVolumes({})).items).toHaveLength(1);
  });

  test('with an unreachable backend make nothing, and succeed when repeated', async () => {
    store.fail({ call: 'putIfAbsent', key: isSlot });
    await fails(create('v'), 'UNAVAILABLE');
    const id = await create('v');
    expect((await fixture.service.getVolume('v')).id).toBe(id);
    store.fail({ call: 'putIfAbsent', key: isSlot, afterwards: true });
    await fails(create('w'), 'UNAVAILABLE');
    await create('w');
    expect((await fixture.service.listVolumes({})).items).toHaveLength(2);
  });
});

test('after it closed, the service opens nothing any more', async () => {
  const { id } = await fixture.createDevice('v', mib);
  await fixture.close();
  await expect(fixture.openDevice(id)).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
  expect((await fixture.service.info()).ready).toBe(false);
});
