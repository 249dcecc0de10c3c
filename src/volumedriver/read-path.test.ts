/** Reading through a map: what is put together, and that nothing unverified ever comes out. */
import { beforeEach, describe, expect, test } from '@jest/globals';
import { FaultyStore } from '../../test/support/faulty-store.ts';
import { SimulatedDisk } from '../../test/support/simulated-disk.ts';
import { clusterChecksum } from './format/checksum.ts';
import { makeObjectId } from './format/location.ts';
import { keys } from './keys.ts';
import type { MappedRun } from './map/volume-map.ts';
import { ObjectReader } from './object-reader.ts';
import { readBytes } from './read-path.ts';
import { MemoryStore } from './store/memory-store.ts';
import type { MapView } from './volume-image.ts';

const cluster = 4096;
const [first, second] = [makeObjectId(1, 0), makeObjectId(1, 1)];

let store: FaultyStore;
let reader: ObjectReader;
let lookups: number;

beforeEach(async () => {
  store = new FaultyStore(new MemoryStore());
  reader = new ObjectReader({ disk: new SimulatedDisk(), store, cacheBytes: 2 ** 20 });
  lookups = 0;
  for (const objectId of [first, second]) await store.put(keys.object(objectId), [data(objectId)]);
});

/** Eight clusters whose bytes all differ from their neighbours. */
function data(objectId: number): Buffer {
  return Buffer.from(
    Array.from({ length: 8 * cluster }, (_, i) => (i * 7 + (i >>> 12) + objectId) & 0xff),
  );
}

function run(objectId: number, index: number, clusterCount: number): MappedRun {
  if (objectId === 0) return { objectId, index, clusterCount, checksums: new Uint32Array() };
  const bytes = data(objectId);
  const checksums = Uint32Array.from({ length: clusterCount }, (_, i) => {
    const at = (index + i) * cluster;
    return clusterChecksum(bytes.subarray(at, at + cluster), objectId, index + i);
  });
  return { objectId, index, clusterCount, checksums };
}

/** A map of these runs, from cluster 0 on. */
function view(runs: MappedRun[], later = false): MapView {
  return {
    lookup: (from, count) => {
      lookups++;
      const found = between(runs, from, count);
      return later ? Promise.resolve(found) : found;
    },
  };
}

function between(runs: MappedRun[], from: number, count: number): MappedRun[] {
  const found: MappedRun[] = [];
  let start = 0;
  for (const { objectId, index, clusterCount, checksums } of runs) {
    const skip = Math.max(0, from - start);
    const take = Math.min(clusterCount, from + count - start) - skip;
    start += clusterCount;
    if (take <= 0) continue;
    const part = checksums.slice(skip, skip + take);
    found.push({ objectId, index: index + skip, clusterCount: take, checksums: part });
  }
  return found;
}

async function read(map: MapView, offset: number, length: number): Promise<Buffer> {
  return Buffer.concat(await readBytes(map, reader, offset, length));
}

describe('a read', () => {
  const runs = [run(first, 2, 2), run(0, 0, 1), run(second, 0, 1)];
  const whole = Buffer.concat([
    data(first).subarray(2 * cluster, 4 * cluster),
    Buffer.alloc(cluster),
    data(second).subarray(0, cluster),
  ]);

  test.each([
    ['everything', 0, 4 * cluster],
    ['one byte', 0, 1],
    ['the last byte', 4 * cluster - 1, 1],
    ['across two runs', 2 * cluster - 1, 2],
    ['inside a hole', 2 * cluster + 5, 100],
    ['from a hole on', 3 * cluster - 1, 2],
    ['all but the ends', 1, 4 * cluster - 2],
  ])('puts together %s', async (_, offset, length) => {
    for (const later of [false, true]) {
      const bytes = await read(view(runs, later), offset, length);
      expect(bytes.equals(whole.subarray(offset, offset + length))).toBe(true);
    }
  });

  test('of nothing asks nobody', async () => {
    expect(await readBytes(view(runs), reader, 4096, 0)).toEqual([]);
    expect(lookups).toBe(0);
  });

  test('of a large hole is zeroes', async () => {
    const length = 5 * 2 ** 20 + cluster;
    const bytes = await read(view([run(0, 0, length / cluster)]), 0, length);
    expect(bytes).toHaveLength(length);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });
});

describe('a wrong cluster is never returned', () => {
  test.each([0, 1, 4095, 4096, 8191])('with byte %d flipped in the store', async (offset) => {
    store.flipByte(keys.object(first), offset);
    const damaged = Math.floor(offset / cluster);
    await expect(read(view([run(first, 0, 2)]), 0, 2 * cluster)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining(`reading cluster ${damaged} of object 00000001-00000`),
    });
    const intact = 1 - damaged;
    const bytes = await read(view([run(first, intact, 1)]), 0, cluster);
    expect(bytes.equals(data(first).subarray(intact * cluster, (intact + 1) * cluster))).toBe(true);
  });

  test('when it is intact, but another one than the map says', async () => {
    const elsewhere = { ...run(first, 3, 1), index: 4 };
    await expect(read(view([elsewhere]), 0, cluster)).rejects.toMatchObject({ code: 'CORRUPT' });
    const other = { ...run(first, 3, 1), objectId: second };
    await expect(read(view([other]), 0, cluster)).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('even when only a byte of its neighbour is wanted', async () => {
    const wrong = { ...run(first, 0, 2) };
    wrong.checksums = Uint32Array.of(wrong.checksums[0] ?? 0, 1);
    await expect(read(view([wrong]), 0, 2 * cluster)).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('and the map is asked again only so often', async () => {
    store.flipByte(keys.object(first), 0);
    await expect(read(view([run(first, 0, 1)]), 0, 1)).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(lookups).toBeLessThanOrEqual(4);
  });
});

describe('an object that is deleted between look-up and read', () => {
  test('makes the read look again, where it has moved', async () => {
    await store.delete(keys.object(first));
    const moved: MapView = {
      lookup: () => [lookups++ === 0 ? run(first, 0, 1) : run(second, 0, 1)],
    };
    expect((await read(moved, 0, cluster)).equals(data(second).subarray(0, cluster))).toBe(true);
    expect(lookups).toBe(2);
  });

  test('is damage when the map goes on to name it', async () => {
    await store.delete(keys.object(first));
    await expect(read(view([run(first, 0, 1)]), 0, 1)).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('is not looked for again when the backend merely does not answer', async () => {
    store.fail({ call: 'get', fromThenOn: true });
    await expect(read(view([run(first, 0, 1)]), 0, 1)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    expect(lookups).toBe(1);
  });
});
