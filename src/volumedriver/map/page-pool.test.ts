import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { MemoryFile } from '../../../test/support/map-fixture.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { CleanIndex } from './clean-index.ts';
import { framesMin, PagePool } from './page-pool.ts';
import { entryWords } from './page.ts';
import { SpillFile } from './spill-file.ts';
import { Turnstile } from './turnstile.ts';

const maker = { owner: 1, stamp: 1, interval: 1 };

function setUp() {
  const file = new MemoryFile();
  const leaks: unknown[] = [];
  const pool = new PagePool({
    memoryBytes: 0,
    openSpill: () => file,
    onLeak: (error) => leaks.push(error),
  });
  return { file, pool, leaks };
}

/** A dirty page with one word set, and an entry that refers to it. */
function makePage(pool: PagePool, word: number): Uint32Array {
  pool.begin();
  const slot = pool.create(0, maker);
  pool.words(pool.dirty.frame[slot] ?? -1)[0] = word;
  const entry = new Uint32Array(entryWords);
  pool.pointAt(entry, 0, -1, slot);
  return entry;
}

function wordOf(pool: PagePool, entry: Uint32Array): number | undefined {
  pool.begin();
  return pool.words(pool.find(entry, 0, -1))[0];
}

describe('CleanIndex', () => {
  test('finds exactly what was added and not deleted', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(63), fc.nat(40), fc.integer({ min: 1, max: 3 }), fc.boolean())),
        (steps) => {
          const low = new Uint32Array(64);
          const writer = new Uint32Array(64);
          const index = new CleanIndex(low, writer);
          const model = new Map<string, number>();
          const keys = new Map<number, string>();
          for (const [frame, at, by, remove] of steps) {
            const key = keys.get(frame);
            if (remove && key !== undefined) {
              index.delete(frame);
              model.delete(key);
              keys.delete(frame);
            } else if (key === undefined && !model.has(`${at}:${by}`)) {
              low[frame] = at;
              writer[frame] = by;
              index.add(frame);
              model.set(`${at}:${by}`, frame);
              keys.set(frame, `${at}:${by}`);
            }
            for (let each = 0; each <= 40; each++) {
              for (const who of [1, 2, 3]) {
                expect(index.get(each, who)).toBe(model.get(`${each}:${who}`) ?? -1);
              }
            }
          }
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('PagePool', () => {
  test('spills dirty pages and gets them back', () => {
    const { pool, file } = setUp();
    const entries = Array.from({ length: framesMin * 5 }, (_, n) => makePage(pool, n));
    expect(file.writes).toBeGreaterThanOrEqual(framesMin * 4);
    entries.forEach((entry, n) => {
      expect(wordOf(pool, entry)).toBe(n);
    });
    for (const entry of entries) pool.dropEntry(entry, 0);
    expect(pool.dirty.count).toBe(0);
    expect(file.sizeBytes()).toBe(0);
  });

  test('does not write an unchanged page twice', () => {
    const { pool, file } = setUp();
    const entries = Array.from({ length: framesMin * 3 }, (_, n) => makePage(pool, n));
    const round = (): void => {
      for (const entry of entries) wordOf(pool, entry);
    };
    round();
    const { writes } = file;
    round();
    round();
    expect(file.writes).toBe(writes);
  });

  test('notices a damaged spill file', () => {
    const { pool, file } = setUp();
    const first = makePage(pool, 1);
    for (let n = 0; n < framesMin * 3; n++) makePage(pool, n);
    file.bytes[17] = (file.bytes[17] ?? 0) ^ 1;
    expect(() => wordOf(pool, first)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
  });

  test('reports a spill file that is full, and goes on when it is not', () => {
    const { pool, file } = setUp();
    const entries = Array.from({ length: framesMin }, (_, n) => makePage(pool, n));
    file.failure = new VolumeError('OUT_OF_SPACE', 'writing: no space');
    expect(() => makePage(pool, 1)).toThrow(expect.objectContaining({ code: 'OUT_OF_SPACE' }));
    entries.forEach((entry, n) => {
      expect(wordOf(pool, entry)).toBe(n);
    });
    file.failure = undefined;
    entries.push(makePage(pool, framesMin));
    entries.forEach((entry, n) => {
      expect(wordOf(pool, entry)).toBe(n);
    });
  });

  test('drops clean pages rather than spill to a full disk', () => {
    const { pool, file } = setUp();
    for (let n = 0; n < framesMin / 2; n++) {
      pool.begin();
      pool.loaded(pool.frameForLoad(), n, 5, 0);
    }
    for (let n = 0; n < framesMin / 2; n++) makePage(pool, n);
    file.failure = new VolumeError('OUT_OF_SPACE', 'writing: no space');
    for (let n = 0; n < framesMin / 2; n++) makePage(pool, n);
    expect(pool.findClean(0, 5)).toBe(-1);
    expect(() => makePage(pool, 0)).toThrow(VolumeError);
  });

  test('keeps pinned pages', () => {
    const { pool } = setUp();
    const frame = pool.frameForLoad();
    pool.loaded(frame, 3, 5, 0);
    pool.pin(frame);
    for (let n = 0; n < framesMin * 3; n++) makePage(pool, n);
    expect(pool.findClean(3, 5)).toBe(frame);
    pool.unpin(frame);
    for (let n = 0; n < framesMin * 3; n++) makePage(pool, n);
    expect(pool.findClean(3, 5)).toBe(-1);
  });

  test('gives a whole tree up with its last reference, spilled parts included', () => {
    const { pool, leaks } = setUp();
    pool.begin();
    const root = new Uint32Array(entryWords);
    const slot = pool.create(1, maker);
    pool.pointAt(root, 0, -1, slot);
    for (let n = 0; n < 256; n++) {
      const child = makePage(pool, n);
      const frame = pool.find(root, 0, -1);
      pool.words(frame).set(child, n * entryWords);
      pool.changed(frame);
    }
    expect(pool.dirty.count).toBe(257);
    for (let n = 0; n < framesMin * 2; n++) pool.dropEntry(makePage(pool, n), 0);
    pool.dropEntry(root, 0);
    expect(pool.dirty.count).toBe(0);
    expect(leaks).toEqual([]);
  });
});

describe('SpillFile', () => {
  test('refuses a page of an earlier use of its slot', () => {
    const spill = new SpillFile(() => new MemoryFile());
    const page = new Uint8Array(4096).fill(5);
    const check = spill.write(3, page, 1);
    spill.read(3, new Uint8Array(4096), 1, check);
    expect(() => {
      spill.read(3, new Uint8Array(4096), 2, check);
    }).toThrow(VolumeError);
    expect(() => {
      spill.read(4, new Uint8Array(4096), 1, check);
    }).toThrow(VolumeError);
  });
});

describe('Turnstile', () => {
  test('lets people in one by one, in order', async () => {
    const turnstile = new Turnstile(1);
    const order: number[] = [];
    expect(turnstile.tryEnter()).toBe(true);
    const waiting = [1, 2].map(async (n) => {
      await turnstile.enter();
      order.push(n);
      turnstile.leave();
    });
    expect(turnstile.tryEnter()).toBe(false);
    turnstile.leave();
    await Promise.all(waiting);
    expect(order).toEqual([1, 2]);
    expect(turnstile.tryEnter()).toBe(true);
  });
});
