/**
 * What a product that only pretends to use its backend would fail: a snapshot is synced, and ready for CSI, when its
 * data is in the backend and not before; reads of what is only there cost requests, and NBD's CACHE pays them ahead.
 * Everything is real but the store, which counts and can hold back puts.
 */
import { afterEach, expect, test } from '@jest/globals';
import { ControllerService } from '../../src/api/generated/csi.ts';
import { systemRandom } from '../../src/base/random.ts';
import { systemClock } from '../../src/base/clock.ts';
import { hasCode } from '../../src/volumes/errors.ts';
import { FileStore } from '../../src/volumedriver/store/file-store.ts';
import { MemoryStore } from '../../src/volumedriver/store/memory-store.ts';
import { readyToUse, startDriverOnStore, type DriverOnStore } from '../support/driver-on-store.ts';
import { FaultyStore } from '../support/faulty-store.ts';
import { blockBytes, writeBlocks, wrongBlocks } from '../support/known-blocks.ts';
import { MiB, eventually } from '../support/product.ts';

let driver: DriverOnStore | undefined;
let release: (() => void) | undefined;
afterEach(async () => {
  // A driver that waits for its store does not close.
  release?.();
  release = undefined;
  await driver?.close();
  driver = undefined;
});

/** A backend without local files, as S3 is one. */
async function startOnMemory(): Promise<FaultyStore> {
  let store: FaultyStore | undefined;
  driver = await startDriverOnStore({
    makeStore: (_folder, disk) => (store = new FaultyStore(new MemoryStore(disk))),
  });
  if (store === undefined) throw new Error('the driver took no store');
  return store;
}

function running(): DriverOnStore {
  if (driver === undefined) throw new Error('no driver runs');
  return driver;
}

const isData = (key: string): boolean => key.startsWith('objects/') || key.includes('/slots/');
const blocks = (mebibytes: number): number => (mebibytes * MiB) / blockBytes;

/** The ids of `synced` are those of the volumedriver's API; CSI's snapshots have the same. */
test.each(['objects', 'slots'])(
  'a snapshot whose %s the store holds back is neither synced nor ready; then it is both',
  async (part) => {
    let store: FaultyStore | undefined;
    driver = await startDriverOnStore({
      makeStore: async (folder, disk) => {
        const root = `${folder}/backend`;
        store = new FaultyStore(await FileStore.open({ disk, root, random: systemRandom }));
        return store;
      },
    });
    const { volumes, csi } = driver;
    const { id } = await volumes.createVolume({ name: 'v', sizeBytes: 64 * MiB });
    const client = await running().connect(id);
    await writeBlocks(client, 0, blocks(20));
    release = store?.blockPuts((key) => isData(key) && key.includes(part));
    const viaApi = await volumes.createSnapshot({ volume: id, name: 'api', timeoutSeconds: -1 });
    const create = {
      ...{ sourceVolumeId: id, name: 'csi', parameters: {}, secrets: {} },
      accessibilityRequirements: undefined,
    };
    const answer = await csi.call(ControllerService.createSnapshot, create, 10_000);
    const viaCsi = answer.snapshot?.snapshotId ?? '';
    expect([viaApi.synced, answer.snapshot?.readyToUse]).toEqual([false, false]);
    const states = async (): Promise<unknown[]> => [
      (await volumes.getSnapshot({ snapshot: viaApi.id })).synced,
      (await volumes.getSnapshot({ snapshot: viaCsi })).synced,
      await readyToUse(csi, viaApi.id),
      await readyToUse(csi, viaCsi),
    ];
    await eventually(
      'the store holds something back',
      10_000,
      () => (store?.blockedCount ?? 0) > 0,
    );
    await systemClock.sleep(500);
    expect(await states()).toEqual([false, false, false, false]);
    // Repeating the call neither makes another nor makes it ready.
    const again = await csi.call(ControllerService.createSnapshot, create, 10_000);
    expect(again.snapshot).toMatchObject({ snapshotId: viaCsi, readyToUse: false });
    await expect(volumes.waitSnapshot({ snapshot: viaApi.id }, 1)).rejects.toMatchObject({
      code: 'SNAPSHOT_TIMEOUT',
    });
    // Meanwhile the volume works, and flushes are what `local` promises.
    await writeBlocks(client, 0, 256, 2);
    await client.flush();
    expect(await wrongBlocks(client, 0, 256, 2)).toEqual([]);

    release?.();
    await volumes.waitSnapshot({ snapshot: viaCsi }, 30);
    expect(await states()).toEqual([true, true, true, true]);
    const snapshot = await driver.connect(`${id}@${viaCsi}`);
    expect(await wrongBlocks(snapshot, 0, blocks(20))).toEqual([]);
    await snapshot.disconnect();
    await client.disconnect();
  },
);

test('a snapshot that is not in the store in time is taken back', async () => {
  const store = await startOnMemory();
  const { volumes } = running();
  const { id } = await volumes.createVolume({ name: 'v', sizeBytes: 64 * MiB });
  // Opened before: taking a volume is a commit of its own.
  const client = await running().connect(id);
  release = store.blockPuts(isData);
  const taken = volumes.createSnapshot({ volume: id, name: 'late', timeoutSeconds: 1 });
  await expect(taken).rejects.toMatchObject({ code: 'SNAPSHOT_TIMEOUT' });
  expect((await volumes.listSnapshots({ volume: id }, {})).items).toEqual([]);
  await client.disconnect();
});

test('with flushTo backend no flush is answered before the store has the data', async () => {
  const store = await startOnMemory();
  const { volumes } = running();
  const request = { name: 'v', sizeBytes: 64 * MiB, flushTo: 'backend' } as const;
  const { id } = await volumes.createVolume(request);
  const client = await running().connect(id);
  release = store.blockPuts(isData);
  await writeBlocks(client, 0, 16);
  let answered = 0;
  const flushes = [client.flush(), client.write(0, Buffer.alloc(blockBytes), { fua: true })];
  for (const flush of flushes) void flush.then(() => answered++);
  await eventually('the store holds something back', 10_000, () => store.blockedCount > 0);
  await systemClock.sleep(500);
  expect(answered).toBe(0);
  release();
  await Promise.all(flushes);
  await client.disconnect();
});

test('a CACHE pulls what is only in the store: reads of it cost no request any more', async () => {
  const store = await startOnMemory();
  const { volumes } = running();
  const { id } = await volumes.createVolume({ name: 'v', sizeBytes: 64 * MiB });
  const client = await running().connect(id);
  // Less than an SCO: nothing is stored before the snapshot asks for it.
  await writeBlocks(client, 0, blocks(12));
  /** How often the store was asked for objects while `work` ran. */
  const requests = async (work: () => Promise<unknown>): Promise<number> => {
    const asked = (): number =>
      [...store.gets].reduce((sum, [key, n]) => sum + (key.startsWith('objects/') ? n : 0), 0);
    const before = asked();
    await work();
    return asked() - before;
  };
  const half = blocks(4);
  // Once everything is stored no local copy is left: this is what makes the reads below cold.
  expect(await requests(() => wrongBlocks(client, 0, half))).toBe(0);
  await volumes.createSnapshot({ volume: id, name: 'stored', timeoutSeconds: 0 });

  const cold = await requests(async () => {
    expect(await wrongBlocks(client, 0, half)).toEqual([]);
  });
  expect(cold).toBeGreaterThan(0);
  const cache = await requests(() => client.cache(half * blockBytes, half * blockBytes));
  // CACHE asks for as much as the same reads do, no more and no less, and leaves nothing for them.
  expect(cache).toBe(cold);
  const warm = await requests(async () => {
    expect(await wrongBlocks(client, half, half)).toEqual([]);
  });
  expect(warm).toBe(0);
  // And it is no cache of everything: what nobody asked for is still cold.
  expect(await requests(() => wrongBlocks(client, 2 * half, half))).toBe(cold);
  await client.disconnect();
});

test('a CACHE of holes, of what is not stored yet and past the end asks the store for nothing', async () => {
  const store = await startOnMemory();
  const { id } = await running().volumes.createVolume({ name: 'v', sizeBytes: 64 * MiB });
  const client = await running().connect(id);
  await writeBlocks(client, 0, 16);
  const before = store.gets.size;
  await client.cache(0, 16 * blockBytes);
  await client.cache(32 * MiB, 16 * MiB);
  const beyond = await client.cache(63 * MiB, 2 * MiB).catch((error: unknown) => error);
  expect(hasCode(beyond, 'INVALID_ARGUMENT')).toBe(true);
  expect(store.gets.size).toBe(before);
  await client.disconnect();
});
