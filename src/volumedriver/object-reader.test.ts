/** Where clusters are read from, and how seldom the store is asked. */
import { beforeEach, describe, expect, test } from '@jest/globals';
import { FaultyStore } from '../../test/support/faulty-store.ts';
import { SimulatedDisk } from '../../test/support/simulated-disk.ts';
import { makeObjectId } from './format/location.ts';
import { keys } from './keys.ts';
import { ObjectGone, ObjectReader } from './object-reader.ts';
import { MemoryStore } from './store/memory-store.ts';

const cluster = 4096;
const windowClusters = 16;
const objectId = makeObjectId(1, 0);
const key = keys.object(objectId);

let disk: SimulatedDisk;
let store: FaultyStore;
let reader: ObjectReader;

beforeEach(() => {
  disk = new SimulatedDisk();
  disk.makeDirectory('/d');
  store = new FaultyStore(new MemoryStore(disk));
  reader = new ObjectReader({ disk, store, cacheBytes: 4 * windowClusters * cluster });
});

/** Clusters that each hold their own number, and a tail as objects have one. */
function content(clusters: number): Buffer {
  const bytes = Buffer.alloc(clusters * cluster + 64, 0xee);
  for (let i = 0; i < clusters; i++) bytes.fill(i % 251, i * cluster, (i + 1) * cluster);
  return bytes;
}

async function read(id: number, index: number, count: number): Promise<number[]> {
  const into = Buffer.alloc(count * cluster);
  await reader.read(id, index, into);
  return Array.from({ length: count }, (_, i) => {
    const first = into.readUInt8(i * cluster);
    expect(into.subarray(i * cluster, (i + 1) * cluster).every((byte) => byte === first)).toBe(
      true,
    );
    return first;
  });
}

function counting(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (from + i) % 251);
}

describe('clusters of the store', () => {
  beforeEach(async () => {
    await store.put(key, [content(100)]);
  });

  test.each([
    [0, 1],
    [15, 1],
    [15, 2],
    [3, 40],
    [0, 100],
    [99, 1],
    [96, 4],
  ])('are read from %d, %d of them, cached or not', async (index, count) => {
    expect(await read(objectId, index, count)).toEqual(counting(index, count));
    expect(await read(objectId, index, count)).toEqual(counting(index, count));
  });

  test('are asked for once, however many want them', async () => {
    await Promise.all(Array.from({ length: 8 }, (_, i) => read(objectId, i, 1)));
    expect(store.gets.get(key)).toBe(1);
    expect(reader.read(objectId, 8, Buffer.alloc(cluster))).toBe(true);
    expect(store.gets.get(key)).toBe(1);
  });

  test('are kept within the bound, the least used going first', async () => {
    for (const window of [0, 1, 2, 3, 0, 4]) await read(objectId, window * windowClusters, 1);
    expect(store.gets.get(key)).toBe(5);
    await read(objectId, 0, 1); // used again meanwhile: still there
    expect(store.gets.get(key)).toBe(5);
    await read(objectId, windowClusters, 1);
    expect(store.gets.get(key)).toBe(6);
  });

  test('are brought nearer ahead of time', async () => {
    await reader.prefetch(objectId, 10, 30);
    expect(reader.read(objectId, 10, Buffer.alloc(30 * cluster))).toBe(true);
    expect(store.gets.get(key)).toBe(3);
  });

  test('are asked for again after a failure', async () => {
    store.fail({ call: 'get' });
    await expect(read(objectId, 0, 1)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await read(objectId, 0, 1)).toEqual([0]);
  });

  test('that do not exist are damage', async () => {
    await expect(read(objectId, 101, 1)).rejects.toMatchObject({ code: 'CORRUPT' });
    await expect(read(objectId, 99, 30)).rejects.toMatchObject({ code: 'CORRUPT' });
    await expect(read(makeObjectId(1, 1), 0, 1)).rejects.toBeInstanceOf(ObjectGone);
  });

  test('are forgotten with their object, and with no other', async () => {
    const other = makeObjectId(1, 10);
    await store.put(keys.object(other), [content(1)]);
    await read(objectId, 0, 1);
    await read(other, 0, 1);
    await store.delete(key);
    expect(await read(objectId, 0, 1)).toEqual([0]);
    reader.forget(objectId);
    await expect(read(objectId, 0, 1)).rejects.toBeInstanceOf(ObjectGone);
    expect(reader.read(other, 0, Buffer.alloc(cluster))).toBe(true);
  });
});

describe('clusters of a local file', () => {
  test('are read there while it is ours, and from the store afterwards', async () => {
    const file = disk.create('/d/0.sco');
    file.write([content(4)], 0);
    reader.addLocal(objectId, file);
    expect(reader.read(objectId, 1, Buffer.alloc(cluster))).toBe(true);
    expect(await read(objectId, 1, 3)).toEqual([1, 2, 3]);
    await reader.prefetch(objectId, 0, 4);
    expect(store.gets.size).toBe(0);
    reader.removeLocal(objectId);
    await expect(read(objectId, 1, 1)).rejects.toBeInstanceOf(ObjectGone);
    await store.put(key, [content(4)]);
    expect(await read(objectId, 1, 1)).toEqual([1]);
  });

  test('are read off the thread when they are not in memory', async () => {
    disk = new SimulatedDisk({ cacheMissProbability: 1 });
    const file = disk.create('/0.sco');
    file.write([content(4)], 0);
    reader.addLocal(objectId, file);
    expect(reader.read(objectId, 1, Buffer.alloc(cluster))).toBeInstanceOf(Promise);
    expect(await read(objectId, 1, 3)).toEqual([1, 2, 3]);
  });

  test('that it lacks are damage', async () => {
    const file = disk.create('/d/0.sco');
    file.write([content(1)], 0);
    reader.addLocal(objectId, file);
    await expect(read(objectId, 1, 1)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining('cut short'),
    });
  });
});
