/** The reserve of a full disk: given up, written again, and what is refused meanwhile. */
import { beforeEach, describe, expect, test } from '@jest/globals';
import { SimulatedDisk } from '../../test/support/simulated-disk.ts';
import { silentLogger } from '../base/logger.ts';
import { SpaceGuard } from './space-guard.ts';

const reserveBytes = 3 * 2 ** 20 + 4096;
const capacityBytes = 16 * 2 ** 20;
let disk: SimulatedDisk;
let guard: SpaceGuard;

function open(): SpaceGuard {
  return new SpaceGuard({ disk, logger: silentLogger, directory: '/data', reserveBytes });
}

/** A file that leaves so many bytes. */
async function fill(leave: number): Promise<string> {
  const { availableBytes } = await disk.capacity('/data');
  const path = `/data/filler${disk.list('/data').length}`;
  const file = disk.create(path);
  file.write([Buffer.alloc(availableBytes - leave)], 0);
  file.close();
  return path;
}

beforeEach(async () => {
  disk = new SimulatedDisk({ capacityBytes });
  disk.makeDirectory('/data');
  guard = open();
  expect(await guard.restore()).toBe(true);
});

describe('the reserve', () => {
  test('is written and synced at first, and there is room', async () => {
    expect(disk.sizeOf('/data/reserve')).toBe(reserveBytes);
    expect(disk.durableContent('/data/reserve')).toHaveLength(reserveBytes);
    expect(guard.full).toBe(false);
    guard.assertRoom();
    expect(await guard.restore()).toBe(true);
  });

  test('is not written again when it is whole', async () => {
    const { write } = disk.counts;
    expect(await open().restore()).toBe(true);
    expect(disk.counts.write).toBe(write);
  });

  test.each([0, 4096, reserveBytes - 1, reserveBytes + 1])(
    'is written again when an earlier process left %d bytes of it',
    async (bytes) => {
      disk.remove('/data/reserve');
      disk.create('/data/reserve').write([Buffer.alloc(bytes)], 0);
      expect(await open().restore()).toBe(true);
      expect(disk.sizeOf('/data/reserve')).toBe(reserveBytes);
    },
  );

  test('is given up once when the disk is full, and its space can be used', async () => {
    await fill(0);
    guard.diskIsFull();
    guard.diskIsFull();
    expect(guard.full).toBe(true);
    expect(disk.sizeOf('/data/reserve')).toBeUndefined();
    expect((await disk.capacity('/data')).availableBytes).toBeGreaterThanOrEqual(reserveBytes);
    expect(() => {
      guard.assertRoom();
    }).toThrow(expect.objectContaining({ code: 'OUT_OF_SPACE', errno: 'ENOSPC' }));
  });

  test('comes back only when there is twice its size, so as not to swing', async () => {
    const filler = await fill(2 * reserveBytes - 2 * 4096 - reserveBytes);
    guard.diskIsFull();
    expect(await guard.restore()).toBe(false);
    expect(guard.full).toBe(true);
    expect(disk.sizeOf('/data/reserve')).toBeUndefined();
    disk.remove(filler);
    expect(await guard.restore()).toBe(true);
    expect(guard.full).toBe(false);
    guard.assertRoom();
    expect(disk.sizeOf('/data/reserve')).toBe(reserveBytes);
  });

  test('that meets a full disk while it is written is removed again', async () => {
    guard.diskIsFull();
    disk.fail({ kind: 'write', errno: 'ENOSPC', nth: 2, path: (path) => path.endsWith('reserve') });
    expect(await guard.restore()).toBe(false);
    expect(disk.sizeOf('/data/reserve')).toBeUndefined();
    expect(guard.full).toBe(true);
    expect(await guard.restore()).toBe(true);
  });

  test.each(['write', 'sync', 'create', 'capacity'] as const)(
    'that can not be made because of a failed %s says so, and nothing is admitted',
    async (kind) => {
      guard.diskIsFull();
      disk.fail({ kind, errno: 'EIO' });
      await expect(guard.restore()).rejects.toMatchObject({ code: 'INTERNAL' });
      expect(guard.full).toBe(true);
    },
  );
});

describe('the capacity', () => {
  test('is that of the filesystem while the reserve is whole, and less what it lacks otherwise', async () => {
    const whole = await disk.capacity('/data');
    expect(await guard.capacity()).toEqual(whole);
    guard.diskIsFull();
    const given = await disk.capacity('/data');
    expect(given.availableBytes).toBeGreaterThan(whole.availableBytes);
    expect((await guard.capacity()).availableBytes).toBe(given.availableBytes - reserveBytes);
  });

  test('is nothing when the disk is full', async () => {
    await fill(0);
    guard.diskIsFull();
    expect((await guard.capacity()).availableBytes).toBe(0);
  });
});
