/** Volumes that share one pool: what one has to wait for must not hold up another. */
import { describe, expect, test } from '@jest/globals';
import {
  ManualClock,
  MapBackend,
  MemoryFile,
  numbersFrom,
} from '../../../test/support/map-fixture.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { makeObjectId } from '../format/location.ts';
import { PagePool } from './page-pool.ts';
import type { PersistedRoot } from './page.ts';
import { VolumeMap } from './volume-map.ts';

const data = makeObjectId(1, 7);
const one = Uint32Array.of(1);
const away = new VolumeError('UNAVAILABLE', 'reading: told to fail');

function newPool(): PagePool {
  return new PagePool({ memoryBytes: 0, openSpill: () => new MemoryFile() });
}

function openMap(parts: {
  clock: ManualClock;
  pool: PagePool;
  backend: MapBackend;
  root: PersistedRoot | null;
}): VolumeMap {
  const { clock, pool, backend, root } = parts;
  return new VolumeMap({
    pool,
    source: backend,
    sizeClusters: 2 ** 20,
    root,
    interval: 1,
    clock,
    onRelease: () => undefined,
    onFailure: (error) => {
      throw error;
    },
  });
}

/** Two volumes just opened, all of whose pages come late, in a pool that lets one of them wait for pages at a time. */
async function openTwo() {
  const clock = new ManualClock();
  const pool = newPool();
  const volumes: { map: VolumeMap; backend: MapBackend }[] = [];
  for (const writer of [8, 9]) {
    const backend = new MapBackend(clock, writer, numbersFrom(writer));
    const earlier = openMap({ clock, pool: newPool(), backend, root: null });
    for (let leaf = 0; leaf < 8; leaf++) earlier.setRun(leaf * 256, data, leaf, one);
    const frozen = earlier.freeze();
    const [root = null] = await clock.finish(earlier.persist([frozen], backend));
    frozen.release();
    earlier.close();
    backend.delayMs = 5;
    volumes.push({ map: openMap({ clock, pool, backend, root }), backend });
  }
  const [first, second] = volumes;
  if (first === undefined || second === undefined) throw new Error('two were opened');
  return { clock, pool, first, second };
}

describe('a volume whose map pages are unavailable', () => {
  test('does not hold up what another one writes', async () => {
    const { clock, pool, first, second } = await openTwo();
    first.backend.failure = away;
    for (let leaf = 0; leaf < 8; leaf++) first.map.setRun(leaf * 256, data, 100, one);
    for (let n = 0; n < 20; n++) await clock.step();
    // More work queues up while the volume waits to try again.
    for (let leaf = 0; leaf < 8; leaf++) first.map.setRun(leaf * 256 + 9, data, 101, one);
    second.map.setRun(0, data, 200, one);
    await clock.finish(second.map.drained());
    expect(first.map.failed).toBeNull();
    first.backend.failure = undefined;
    await clock.finish(first.map.drained());
    const [run] = await clock.finish(first.map.lookup(1024, 1));
    expect(run).toMatchObject({ objectId: data, index: 100 });
    first.map.close();
    second.map.close();
    await clock.rest();
    expect(pool.dirty.count).toBe(0);
  });

  test('does not hold up what another one reads', async () => {
    const { clock, first, second } = await openTwo();
    first.backend.failure = away;
    const failing = first.map.lookup(0, 1);
    const start = clock.now();
    const [run] = await clock.finish(second.map.lookup(0, 1));
    expect(run).toMatchObject({ objectId: data, index: 0 });
    expect(clock.now() - start).toBeLessThan(200);
    await expect(clock.finish(failing)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });
});
