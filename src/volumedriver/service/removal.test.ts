/** Removals of clones and their sources that meet each other, a checkpoint, or an answer that was lost. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { EngineFixture } from '../../../test/support/engine-fixture.ts';
import { FaultyStore } from '../../../test/support/faulty-store.ts';
import type { BlockDevice } from '../../volumes/block-device.ts';

const mib = 2 ** 20;
const sevens = Buffer.alloc(65_536, 7);

let fixture: EngineFixture;
let store: FaultyStore;
let device: BlockDevice;
let id: string;

const wrapStore = (inner: ConstructorParameters<typeof FaultyStore>[0]): FaultyStore => {
  store = new FaultyStore(inner);
  return store;
};

beforeEach(async () => {
  fixture = await EngineFixture.open({ wrapStore });
  ({ device, id } = await fixture.createDevice('v', mib));
  await device.write(0, sevens, { fua: true });
});
afterEach(async () => {
  await fixture.close();
});

/** Lets everything run that waits for no clock; maintenance once. */
async function maintain(): Promise<void> {
  fixture.clock.wakeAll();
  for (let turn = 0; turn < 60; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function clone(): Promise<string> {
  const source = { kind: 'volume', volumeId: fixture.service.catalog.publicId(id) } as const;
  return (await fixture.service.createVolume({ name: 'c', sizeBytes: mib, source })).id;
}

async function readFirst(exportName: string): Promise<Buffer> {
  const opened = await fixture.openDevice(exportName);
  const bytes = Buffer.concat(await opened.read(0, sevens.length));
  await opened.close();
  return bytes;
}

test('a volume whose name could not be given back is not returned for a new one', async () => {
  await device.close();
  store.fail({ call: 'delete', key: (key) => key.startsWith('names/volumes/') });
  const snapshot = await fixture.service.createSnapshot({
    volume: id,
    name: 's',
    timeoutSeconds: 0,
  });
  await expect(fixture.service.removeVolume(id, 'deferred')).rejects.toThrow('simulated failure');
  const made = await fixture.service.createVolume({ name: 'v', sizeBytes: mib });
  expect(made.id).not.toBe(fixture.service.catalog.publicId(id));
  expect((await readFirst(made.id)).equals(Buffer.alloc(sevens.length))).toBe(true);
  expect((await readFirst(`${id}@${snapshot.id}`)).equals(sevens)).toBe(true);
});

test('a slot that the device cannot read keeps no other volume from being served', async () => {
  await device.close();
  fixture = await fixture.restart();
  await fixture.close();
  const broken = (inner: ConstructorParameters<typeof FaultyStore>[0]): FaultyStore => {
    const one = wrapStore(inner);
    const key = (name: string): boolean => name.startsWith(`volumes/${id}/`);
    one.fail({ call: 'get', fromThenOn: true, code: 'INTERNAL', key });
    return one;
  };
  fixture = await EngineFixture.open({ ...fixture.nextOptions(), wrapStore: broken });
  await fixture.createDevice('w', mib);
  await expect(fixture.openDevice(id)).rejects.toThrow('simulated failure');
});

describe('a clone', () => {
  test('whose removal waits for a checkpoint of its source leaves that source as it is', async () => {
    const made = await clone();
    await device.write(0, Buffer.alloc(4096, 8), { fua: true });
    await device.write(0, sevens, { fua: true });
    const release = store.blockPuts((key) => key.startsWith(`volumes/${id}/`));
    const checkpoint = fixture.service.catalog.byId(id)?.volume?.checkpoint();
    const removal = fixture.service.removeVolume(made, 'deferred');
    for (let second = 0; second < 3; second++) await maintain();
    release();
    await checkpoint;
    await removal;
    await maintain();
    fixture = await fixture.crash('process'); // no checkpoint: the whole log is replayed
    expect((await readFirst(id)).equals(sevens)).toBe(true);
    const volume = fixture.service.catalog.byId(id)?.volume;
    expect(volume?.state.snapshots).toEqual([]);
  });

  test('has its link in the backend before it exists', async () => {
    const made = await clone();
    fixture.crashNow('power');
    fixture = await EngineFixture.open({
      ...fixture.nextOptions(),
      engine: { dataDirectory: '/data2' },
    });
    const clones = fixture.service.catalog
      .byId(id)
      ?.closedState.snapshots.flatMap((snapshot) => snapshot.clones);
    expect(clones?.map((ulid) => fixture.service.catalog.publicId(ulid))).toEqual([made]);
  });

  test('that was made although nobody was told keeps its source', async () => {
    const isFirstSlot = (key: string): boolean => key.endsWith('/slots/00000000000001');
    store.fail({ call: 'putIfAbsent', afterwards: true, key: isFirstSlot });
    await expect(clone()).rejects.toThrow('simulated failure');
    await maintain();
    await device.write(0, Buffer.alloc(65_536, 8), { fua: true });
    const made = await clone();
    await fixture.service.catalog.byId(id)?.volume?.checkpoint();
    expect((await readFirst(made)).equals(sevens)).toBe(true);
  });
});
