import { describe, expect, test } from '@jest/globals';
import {
  ManualClock,
  MapBackend,
  MemoryFile,
  numbersFrom,
} from '../../../test/support/map-fixture.ts';
import { hasCode, VolumeError } from '../../volumes/errors.ts';
import { clusterChecksum } from '../format/checksum.ts';
import { makeObjectId } from '../format/location.ts';
import { PagePool } from './page-pool.ts';
import type { PersistedRoot } from './page.ts';
import { VolumeMap, type MappedRun, type VolumeMapOptions } from './volume-map.ts';

const size = 2 ** 20;
const data = makeObjectId(1, 7);

function setUp(base: Partial<VolumeMapOptions> = {}) {
  const clock = new ManualClock();
  const backend = new MapBackend(clock, 9, numbersFrom(1));
  const releases: { objectId: number; index: number; since: number }[] = [];
  const failures: VolumeError[] = [];
  const newPool = (): PagePool =>
    new PagePool({ memoryBytes: 0, openSpill: () => new MemoryFile() });
  const pool = newPool();
  const open = (root: PersistedRoot | null, more: Partial<VolumeMapOptions> = {}): VolumeMap =>
    new VolumeMap({
      pool,
      source: backend,
      sizeClusters: size,
      root,
      interval: 1,
      clock,
      onRelease: (objectId, index, since) => releases.push({ objectId, index, since }),
      onFailure: (error) => failures.push(error),
      ...base,
      ...more,
    });
  const map = open(null);
  const checkpoint = async (of = map): Promise<PersistedRoot | null> => {
    const frozen = of.freeze();
    const [root] = await clock.finish(of.persist([frozen], backend));
    frozen.release();
    return root ?? null;
  };
  /** The map after a restart, whose pages all come late. */
  const reopen = async (more: Partial<VolumeMapOptions> = {}): Promise<VolumeMap> => {
    const root = await checkpoint();
    map.close();
    backend.delayMs = 10;
    return open(root, { pool: newPool(), ...more });
  };
  return { clock, backend, pool, newPool, map, releases, failures, open, checkpoint, reopen };
}

function checksums(count: number, first = 1): Uint32Array {
  return Uint32Array.from({ length: count }, (_, n) => first + n);
}

function plain(runs: MappedRun[]): unknown[] {
  return runs.map((run) => ({ ...run, checksums: [...run.checksums] }));
}

/** What a look-up gives that must not wait. */
function now(runs: MappedRun[] | Promise<MappedRun[]>): unknown[] {
  expect(Array.isArray(runs)).toBe(true);
  return plain(runs as MappedRun[]);
}

function hole(clusterCount: number): unknown {
  return { clusterCount, objectId: 0, index: 0, checksums: [] };
}

function run(objectId: number, index: number, sums: Uint32Array): unknown {
  return { clusterCount: sums.length, objectId, index, checksums: [...sums] };
}

describe('a resident map', () => {
  test('is all holes at first', () => {
    const { map } = setUp();
    expect(now(map.lookup(0, 1000))).toEqual([hole(1000)]);
  });

  test('finds what was set, across leaves', () => {
    const { map } = setUp();
    map.setRun(250, data, 3, checksums(20));
    expect(now(map.lookup(249, 22))).toEqual([hole(1), run(data, 3, checksums(20)), hole(1)]);
  });

  test('does not join the end of an object with the next one', () => {
    const { map } = setUp();
    map.setRun(0, data, 4094, checksums(2));
    map.setRun(2, data + 1, 0, checksums(2));
    expect(now(map.lookup(0, 4))).toEqual([
      run(data, 4094, checksums(2)),
      run(data + 1, 0, checksums(2)),
    ]);
  });

  test('holds the last cluster of the largest volume, and grows to it', () => {
    const { map } = setUp();
    map.setRun(5, data, 5, checksums(1));
    map.grow(2 ** 34);
    map.setRun(2 ** 34 - 2, data, 0, checksums(2));
    expect(now(map.lookup(2 ** 34 - 3, 3))).toEqual([hole(1), run(data, 0, checksums(2))]);
    expect(now(map.lookup(4, 2))).toEqual([hole(1), run(data, 5, checksums(1))]);
  });

  test('keeps frozen maps as they were', () => {
    const { map, releases } = setUp();
    map.setRun(5, data, 0, checksums(2));
    const frozen = map.freeze();
    map.setInterval(2);
    map.setRun(6, data, 100, checksums(1, 9));
    expect(now(frozen.lookup(5, 2))).toEqual([run(data, 0, checksums(2))]);
    expect(now(map.lookup(6, 1))).toEqual([run(data, 100, checksums(1, 9))]);
    expect(releases).toEqual([{ objectId: data, index: 1, since: 2 }]);
  });

  test('releases nothing when a location is set where it is', () => {
    const { map, releases } = setUp();
    map.setRun(5, data, 0, checksums(3));
    map.setRun(5, data, 0, checksums(3));
    expect(releases).toEqual([]);
    map.setRun(6, makeObjectId(2, 7), 1, checksums(1));
    expect(releases).toEqual([{ objectId: data, index: 1, since: 1 }]);
  });

  test('clears ranges: edges at once, whole leaves in the background', async () => {
    const { map, releases, clock, pool } = setUp();
    map.setRun(0, data, 0, checksums(2000));
    map.clearRange(100, 1000);
    expect(now(map.lookup(0, 2000))).toEqual([
      run(data, 0, checksums(100)),
      hole(1000),
      run(data, 1100, checksums(900, 1101)),
    ]);
    await clock.finish(map.drained());
    expect(releases.map(({ index }) => index).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 1000 }, (_, n) => n + 100),
    );
    map.clearRange(0, size);
    await clock.finish(map.drained());
    expect(releases.length).toBe(2000);
    expect(pool.dirty.count).toBe(0);
  });

  test('a clear of holes makes and copies no page', () => {
    const { map, pool } = setUp();
    map.setRun(300, data, 0, checksums(1));
    const frozen = map.freeze();
    const { count } = pool.dirty;
    map.clearRange(0, 300);
    map.clearRange(301, 5000);
    expect(pool.dirty.count).toBe(count);
    frozen.release();
  });

  test('gives all memory back when closed', () => {
    const { map, pool } = setUp();
    for (let n = 0; n < 200; n++) map.setRun(n * 256, data, n, checksums(1));
    const frozen = map.freeze();
    for (let n = 0; n < 200; n++) map.setRun(n * 256, data + 1, n, checksums(1));
    map.close();
    expect(pool.dirty.count).toBeGreaterThan(200);
    frozen.release();
    expect(pool.dirty.count).toBe(0);
  });
});

describe('persisting', () => {
  test('reopens, and reports superseded pages once', async () => {
    const { map, releases, open, pool, checkpoint } = setUp();
    map.setRun(1000, data, 0, checksums(300));
    const root = await checkpoint();
    expect(releases).toEqual([]);
    const again = open(root);
    expect(now(again.lookup(1000, 300))).toEqual([run(data, 0, checksums(300))]);
    again.close();
    map.setInterval(4);
    map.setRun(1000, data, 500, checksums(1));
    map.setRun(1001, data, 501, checksums(1));
    const pages = releases.filter(({ objectId }) => objectId !== data);
    expect(pages.map(({ since }) => since)).toEqual([4, 4, 4]);
    map.close();
    expect(pool.dirty.count).toBe(0);
  });

  test('gives null for an empty map, and the same root again for an unchanged one', async () => {
    const { map, backend, checkpoint } = setUp();
    expect(await checkpoint()).toBeNull();
    map.setRun(0, data, 0, checksums(1));
    const root = await checkpoint();
    const objects = backend.objects.size;
    expect(await checkpoint()).toEqual(root);
    expect(backend.objects.size).toBe(objects);
  });

  test('puts pages of one birth into an object', async () => {
    const { map, clock, backend, releases } = setUp();
    map.setRun(0, data, 0, checksums(1));
    const first = map.freeze();
    map.setInterval(2);
    map.setRun(300, data, 1, checksums(1));
    const second = map.freeze();
    const roots = await clock.finish(map.persist([first, second], backend));
    expect(roots.length).toBe(2);
    // The first interval's leaf is shared, its root and inner page are superseded.
    const births = [...backend.objects.values()].map(({ birth, pages }) => [birth, pages.length]);
    expect(births).toEqual([
      [1, 3],
      [2, 3],
    ]);
    expect(releases.map(({ since }) => since)).toEqual([2, 2]);
  });

  test('bears look-ups that settle the entries of a page under way', async () => {
    const { map, clock, backend } = setUp({ pagesPerTurn: 1 });
    for (let leaf = 0; leaf < 20; leaf++) map.setRun(leaf * 256, data, leaf, checksums(1));
    const first = map.freeze();
    // The copies of the inner pages refer to leaves that the first persist turns into stored ones.
    for (let leaf = 0; leaf < 10; leaf++) map.setRun(leaf * 256, data, 100 + leaf, checksums(1));
    await clock.finish(map.persist([first], backend));
    first.release();
    const second = map.freeze();
    const persisted = map.persist([second], backend);
    for (let n = 0; n < 5; n++) await clock.step();
    for (let leaf = 0; leaf < 20; leaf++) now(map.lookup(leaf * 256, 1));
    map.setRun(0, data, 200, checksums(1));
    const [root] = await clock.finish(persisted);
    map.reset(root ?? null, size, 1);
    expect(now(map.lookup(9 * 256, 1))).toEqual([run(data, 109, checksums(1))]);
    expect(now(map.lookup(19 * 256, 1))).toEqual([run(data, 19, checksums(1))]);
  });

  test('that fails leaves the map as it was', async () => {
    const { map, clock, backend, releases, checkpoint } = setUp();
    for (let n = 0; n < 300; n++) map.setRun(n * 256, data, n, checksums(1));
    const frozen = map.freeze();
    backend.writeFailure = new VolumeError('UNAVAILABLE', 'writing: told to fail');
    await expect(clock.finish(map.persist([frozen], backend))).rejects.toBe(backend.writeFailure);
    backend.writeFailure = undefined;
    frozen.release();
    expect(releases).toEqual([]);
    await checkpoint();
    expect(now(map.lookup(256, 1))).toEqual([run(data, 1, checksums(1))]);
  });

  test('shares clean pages between maps of one pool', async () => {
    const { map, open, newPool, backend, checkpoint } = setUp();
    map.setRun(0, data, 0, checksums(1));
    const root = await checkpoint();
    const pool = newPool();
    const clones = [open(root, { pool }), open(root, { pool })];
    for (const clone of clones) expect(now(clone.lookup(0, 1))).toHaveLength(1);
    expect(backend.reads).toBe(3);
  });
});

describe('a map whose pages come late', () => {
  test('never makes a write wait, and shows it at once', async () => {
    const { map, reopen, clock, releases } = setUp();
    map.setRun(0, data, 0, checksums(4));
    map.setRun(600, data, 10, checksums(4));
    const later = await reopen();
    later.setRun(1, data, 100, checksums(2, 50));
    later.clearRange(2, 1);
    later.setRun(3, data, 200, checksums(1, 60));
    expect(now(later.lookup(1, 3))).toEqual([
      run(data, 100, checksums(1, 50)),
      hole(1),
      run(data, 200, checksums(1, 60)),
    ]);
    const frozen = later.freeze();
    later.setRun(2, data, 300, checksums(1, 70));
    expect(releases).toEqual([]);
    expect(plain(await clock.finish(later.lookup(0, 4)))).toEqual([
      run(data, 0, checksums(1)),
      run(data, 100, checksums(1, 50)),
      run(data, 300, checksums(1, 70)),
      run(data, 200, checksums(1, 60)),
    ]);
    await clock.finish(later.drained());
    expect(now(frozen.lookup(2, 1))).toEqual([hole(1)]);
    const clusters = releases.filter(({ objectId }) => objectId === data);
    expect(clusters.map(({ index }) => index)).toEqual([1, 2, 101, 3]);
  });

  test('asks writers to wait, until its queue is shorter', async () => {
    const { map, reopen, clock } = setUp();
    for (let n = 0; n < 50; n++) map.setRun(n * 256, data, n, checksums(1));
    const later = await reopen({ queueClustersMax: 100 });
    expect(later.pressure()).toBeUndefined();
    for (let n = 0; n < 51; n++) later.setRun(n * 256, data, 100 + 2 * n, checksums(2));
    const pressure = later.pressure();
    expect(pressure).toBeDefined();
    await clock.finish(pressure);
    expect(later.pressure()).toBeUndefined();
    await clock.finish(later.drained());
    expect(now(later.lookup(0, 1))).toEqual([run(data, 100, checksums(1))]);
  });

  test('waits for a backend that is away, while look-ups give up', async () => {
    const { map, reopen, clock, backend, failures } = setUp();
    map.setRun(0, data, 0, checksums(1));
    const later = await reopen();
    backend.failure = new VolumeError('UNAVAILABLE', 'reading: told to fail');
    later.setRun(0, data, 9, checksums(1));
    await expect(clock.finish(later.lookup(7, 1))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    for (let n = 0; n < 50; n++) await clock.step();
    expect(failures).toEqual([]);
    backend.failure = undefined;
    await clock.finish(later.drained());
    expect(now(later.lookup(0, 1))).toEqual([run(data, 9, checksums(1))]);
  });

  test('rolls back behind what is queued', async () => {
    const { map, reopen, clock, releases } = setUp();
    map.setRun(0, data, 0, checksums(1));
    const later = await reopen();
    const frozen = later.freeze();
    later.setInterval(2);
    later.setRun(0, data, 5, checksums(1));
    later.reset(frozen, size, 1);
    later.setInterval(3);
    const answer = later.lookup(0, 1);
    expect(plain(await clock.finish(answer))).toEqual([run(data, 0, checksums(1))]);
    await clock.finish(later.drained());
    later.setRun(0, data, 6, checksums(1));
    expect(releases.filter(({ since }) => since !== 2)).toContainEqual({
      objectId: data,
      index: 0,
      since: 3,
    });
  });

  test('forgets cuts of intervals that are rolled back', async () => {
    const { map, reopen, clock, releases } = setUp();
    map.setRun(0, data, 0, checksums(4096));
    const later = await reopen();
    const frozen = later.freeze();
    later.setInterval(2);
    later.clearRange(0, size);
    later.reset(frozen, size, 1);
    later.setInterval(3);
    await clock.finish(later.drained());
    expect(releases).toEqual([]);
    expect(plain(await clock.finish(later.lookup(0, 4096)))).toHaveLength(1);
  });

  test('a frozen map stays whole for look-ups that a release overtakes', async () => {
    const { map, reopen, clock } = setUp();
    map.setRun(0, data, 0, checksums(1));
    const later = await reopen();
    const frozen = later.freeze();
    later.setRun(0, data, 1, checksums(1));
    const answer = frozen.lookup(0, 1);
    frozen.release();
    later.clearRange(0, size);
    expect(plain(await clock.finish(answer))).toEqual([run(data, 0, checksums(1))]);
  });

  test('a look-up that close() overtakes fails', async () => {
    const { map, reopen, clock } = setUp();
    map.setRun(0, data, 0, checksums(1));
    const later = await reopen();
    later.setRun(3, data, 9, checksums(1));
    const frozen = later.freeze();
    const waiting: unknown[] = [later.lookup(0, 1), frozen.applied, later.drained()];
    later.close();
    for (const each of waiting) {
      await expect(clock.finish(each)).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
    }
  });
});

describe('damage', () => {
  test('fails what needs the page, for good, and nothing else', async () => {
    const { map, reopen, clock, backend, failures } = setUp();
    map.setRun(0, data, 0, checksums(1));
    map.setRun(70_000, data, 1, checksums(1));
    const later = await reopen();
    const leaf = [...backend.objects.values()][0]?.pages[0];
    if (leaf !== undefined) leaf[9] = (leaf[9] ?? 0) ^ 1;
    await expect(clock.finish(later.lookup(0, 1))).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(plain(await clock.finish(later.lookup(70_000, 1)))).toHaveLength(1);
    expect(failures).toEqual([]);
    later.setRun(1, data, 9, checksums(1));
    later.setRun(70_000, data, 10, checksums(1));
    const frozen = later.freeze();
    await expect(clock.finish(later.drained())).rejects.toMatchObject({ code: 'CORRUPT' });
    await expect(frozen.applied).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(failures.length).toBe(1);
    expect(hasCode(later.failed, 'CORRUPT')).toBe(true);
    expect(() => {
      later.setRun(2, data, 11, checksums(1));
    }).toThrow(later.failed ?? '');
    // What was acknowledged until then is still there to be read.
    expect(now(later.lookup(1, 1))).toEqual([run(data, 9, checksums(1))]);
    expect(now(later.lookup(70_000, 1))).toEqual([run(data, 10, checksums(1))]);
  });

  test('in a cut subtree loses space, not the volume', async () => {
    const leaks: unknown[] = [];
    const { map, reopen, clock, backend, releases } = setUp({ onLeak: (e) => leaks.push(e) });
    map.setRun(0, data, 0, checksums(512));
    const later = await reopen();
    const leaf = [...backend.objects.values()][0]?.pages[0];
    if (leaf !== undefined) leaf[9] = (leaf[9] ?? 0) ^ 1;
    later.clearRange(0, size);
    await clock.finish(later.drained());
    expect(leaks.length).toBe(1);
    expect(releases.filter(({ objectId }) => objectId === data).length).toBe(256);
    expect(later.failed).toBeNull();
  });

  test.each<[string, PersistedRoot]>([
    ['an object without a writer', { objectId: 5, index: 0, checksum: 0, level: 0 }],
    ['the reserved writer', { objectId: 0xffffffff * 2 ** 20, index: 0, checksum: 0, level: 0 }],
    ['an index too large', { objectId: data, index: 4096, checksum: 0, level: 0 }],
    ['a level too high', { objectId: data, index: 0, checksum: 0, level: 5 }],
    ['a fraction', { objectId: data, index: 0.5, checksum: 0, level: 0 }],
  ])('a root record with %s is refused', (_, root) => {
    const { open } = setUp();
    expect(() => open(root)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
  });

  test('a stored page with a reference of memory is refused', async () => {
    const { open, backend, clock } = setUp();
    const objectId = backend.allocateObject();
    const page = new Uint8Array(4096);
    new Uint32Array(page.buffer).set([0, 0xffffffff, 1, 0]);
    await clock.finish(backend.writeObject(objectId, 1, [page]));
    const checksum = clusterChecksum(page, objectId, 0);
    const map = open({ objectId, index: 0, checksum, level: 1 });
    await expect(clock.finish(map.lookup(0, 1))).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('of the spill file fails the map', async () => {
    const file = new MemoryFile();
    const pool = new PagePool({ memoryBytes: 0, openSpill: () => file });
    const { map, failures, clock } = setUp({ pool });
    for (let n = 0; n < 300; n++) map.setRun(n * 256, data, n, checksums(1));
    file.bytes.fill(1);
    for (let n = 0; n < 300; n++) {
      if (map.failed === null) map.setRun(n * 256, data, 1000 + n, checksums(1));
      await clock.step();
    }
    expect(failures).toMatchObject([{ code: 'CORRUPT' }]);
  });

  test('a full disk makes operations wait', async () => {
    const file = new MemoryFile();
    const pool = new PagePool({ memoryBytes: 0, openSpill: () => file });
    const { map, clock } = setUp({ pool });
    file.failure = new VolumeError('OUT_OF_SPACE', 'writing: no space');
    for (let n = 0; n < 300; n++) map.setRun(n * 256, data, n, checksums(1));
    expect(now(map.lookup(299 * 256, 1))).toEqual([run(data, 299, checksums(1))]);
    for (let n = 0; n < 10; n++) await clock.step();
    file.failure = undefined;
    await clock.finish(map.drained());
    for (let n = 0; n < 300; n++) {
      expect(now(map.lookup(n * 256, 1))).toEqual([run(data, n, checksums(1))]);
    }
  });
});
