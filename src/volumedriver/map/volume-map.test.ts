import { describe, expect, test } from '@jest/globals';
import {
  ManualClock,
  MapBackend,
  MemoryFile,
  numbersFrom,
} from '../../../test/support/map-fixture.ts';
import { hasCode, type VolumeError } from '../../volumes/errors.ts';
import { makeObjectId } from '../format/location.ts';
import { PagePool } from './page-pool.ts';
import type { PersistedRoot } from './page.ts';
import { VolumeMap, type MappedRun } from './volume-map.ts';

const size = 2 ** 20;
const data = makeObjectId(1, 7);

interface Release {
  objectId: number;
  index: number;
  since: number;
}

function setUp(options: { sizeClusters?: number; root?: PersistedRoot | null } = {}) {
  const clock = new ManualClock();
  const backend = new MapBackend(clock, 9, numbersFrom(1));
  const file = new MemoryFile();
  const pool = new PagePool({ memoryBytes: 0, openSpill: () => file });
  const releases: Release[] = [];
  const failures: VolumeError[] = [];
  const open = (root: PersistedRoot | null, sizeClusters = size): VolumeMap =>
    new VolumeMap({
      pool,
      source: backend,
      sizeClusters,
      root,
      interval: 1,
      clock,
      onRelease: (objectId, index, since) => releases.push({ objectId, index, since }),
      onFailure: (error) => failures.push(error),
    });
  const map = open(options.root ?? null, options.sizeClusters);
  return { clock, backend, file, pool, map, releases, failures, open };
}

function checksums(count: number, first = 1): Uint32Array {
  return Uint32Array.from({ length: count }, (_, n) => first + n);
}

function plain(runs: MappedRun[] | Promise<MappedRun[]>): unknown[] {
  expect(Array.isArray(runs)).toBe(true);
  return (runs as MappedRun[]).map((run) => ({ ...run, checksums: [...run.checksums] }));
}

function hole(clusterCount: number): unknown {
  return { clusterCount, objectId: 0, index: 0, checksums: [] };
}

describe('VolumeMap in memory', () => {
  test('is all holes at first', () => {
    const { map } = setUp();
    expect(plain(map.lookup(0, 1000))).toEqual([hole(1000)]);
  });

  test('finds what was set, across leaves', () => {
    const { map } = setUp();
    map.setRun(250, data, 3, checksums(20));
    expect(plain(map.lookup(249, 22))).toEqual([
      hole(1),
      { clusterCount: 20, objectId: data, index: 3, checksums: [...checksums(20)] },
      hole(1),
    ]);
  });

  test('keeps frozen maps as they were', () => {
    const { map, releases } = setUp();
    map.setRun(5, data, 0, checksums(2));
    const frozen = map.freeze();
    map.setInterval(2);
    map.setRun(6, data, 100, checksums(1, 9));
    expect(plain(frozen.lookup(5, 2))).toEqual([
      { clusterCount: 2, objectId: data, index: 0, checksums: [1, 2] },
    ]);
    expect(plain(map.lookup(6, 1))).toEqual([
      { clusterCount: 1, objectId: data, index: 100, checksums: [9] },
    ]);
    expect(releases).toEqual([{ objectId: data, index: 1, since: 2 }]);
  });

  test('persists, reopens and reports superseded pages', async () => {
    const { map, clock, backend, releases, open, pool } = setUp();
    map.setRun(1000, data, 0, checksums(300));
    const frozen = map.freeze();
    const [root] = await clock.finish(map.persist([frozen], backend));
    frozen.release();
    expect(releases).toEqual([]);
    const again = open(root ?? null);
    expect(plain(again.lookup(1000, 300))).toEqual([
      { clusterCount: 300, objectId: data, index: 0, checksums: [...checksums(300)] },
    ]);
    again.close();
    map.setRun(1000, data, 500, checksums(1));
    const pages = releases.filter((release) => release.objectId !== data);
    expect(pages.length).toBe(3);
    map.close();
    expect(pool.dirty.count).toBe(0);
  });

  test('rejects a damaged page', async () => {
    const { map, clock, backend, failures } = setUp();
    map.setRun(0, data, 0, checksums(1));
    map.setRun(70000, data, 1, checksums(1));
    const [root] = await clock.finish(map.persist([map.freeze()], backend));
    for (const object of backend.objects.values()) {
      for (const page of object.pages.slice(0, 1)) page[0] = (page[0] ?? 0) ^ 1;
    }
    const fresh = new PagePool({ memoryBytes: 0, openSpill: () => new MemoryFile() });
    const reopened = new VolumeMap({
      pool: fresh,
      source: backend,
      sizeClusters: size,
      root: root ?? null,
      interval: 1,
      clock,
      onRelease: () => undefined,
      onFailure: (error) => failures.push(error),
    });
    await expect(clock.finish(reopened.lookup(0, 1))).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(plain(reopened.lookup(70000, 1))).toHaveLength(1);
    reopened.setRun(0, data, 9, checksums(1));
    await expect(clock.finish(reopened.drained())).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(failures.length).toBe(1);
    expect(hasCode(reopened.failed, 'CORRUPT')).toBe(true);
    expect(plain(reopened.lookup(0, 1))).toEqual([
      { clusterCount: 1, objectId: data, index: 9, checksums: [1] },
    ]);
    expect(plain(reopened.lookup(70000, 1))).toHaveLength(1);
  });
});
