import { describe, expect, test } from '@jest/globals';
import { describeDisk } from '../../src/volumedriver/disk/disk-contract.ts';
import type { DiskFile } from '../../src/volumedriver/disk/disk.ts';
import { SimulatedDisk } from './simulated-disk.ts';

describeDisk('SimulatedDisk', () => {
  const disk = new SimulatedDisk();
  disk.makeDirectory('/data');
  return { disk, directory: '/data', cleanUp: () => undefined };
});

const seeds = Array.from({ length: 200 }, (_, index) => index + 1);

function contentOf(disk: SimulatedDisk, path: string): string | undefined {
  const size = disk.sizeOf(path);
  if (size === undefined) return undefined;
  const file = disk.open(path, 'read');
  const buffer = Buffer.alloc(size);
  file.readSync(buffer, 0);
  file.close();
  return buffer.toString('latin1');
}

/** A durable, empty file /d/f. */
async function withFile(seed: number, capacityBytes = 2 ** 30): Promise<[SimulatedDisk, DiskFile]> {
  const disk = new SimulatedDisk({ seed, capacityBytes });
  disk.makeDirectory('/d');
  await disk.syncDirectory('/');
  const file = disk.create('/d/f');
  await disk.syncDirectory('/d');
  return [disk, file];
}

/** What was seen over all seeds, to show that a model is neither too kind nor too cruel. */
async function outcomes<T>(run: (seed: number) => Promise<T>): Promise<Set<T>> {
  const seen = new Set<T>();
  for (const seed of seeds) seen.add(await run(seed));
  return seen;
}

describe('a process crash', () => {
  test('keeps everything written, synced or not, and ends the disk and its files', async () => {
    const [disk, file] = await withFile(1);
    file.write([Buffer.from('hello')], 0);
    disk.makeDirectory('/new');
    const sync = file.sync();
    const next = disk.crash('process');
    await expect(sync).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(contentOf(next, '/d/f')).toBe('hello');
    expect(next.list('/')).toEqual(['d', 'new']);
    expect(() => disk.list('/')).toThrow('ESHUTDOWN');
    expect(() => {
      file.write([Buffer.from('zombie')], 0);
    }).toThrow('ESHUTDOWN');
    file.close();
    expect(contentOf(next, '/d/f')).toBe('hello');
  });

  test('in a write leaves a first part of whole pages', async () => {
    const sizes = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      let next: SimulatedDisk | undefined;
      disk.onOperation(({ kind }) => {
        if (kind === 'write') next = disk.crash('process');
      });
      expect(() => {
        file.write([Buffer.alloc(10_000, 'x')], 0);
      }).toThrow('ESHUTDOWN');
      return next?.sizeOf('/d/f');
    });
    expect([...sizes].sort()).toEqual([0, 4096, 8192]);
  });
});

describe('a power cut', () => {
  test('keeps what was synced and any of the unsynced sectors', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      file.write([Buffer.alloc(1536, 'a')], 0);
      await file.sync();
      file.write([Buffer.alloc(1536, 'b')], 0);
      const content = contentOf(disk.crash('power'), '/d/f') ?? '';
      return [0, 512, 1024]
        .map((start) => [...new Set(content.slice(start, start + 512))].join(''))
        .join('');
    });
    expect([...seen].sort()).toEqual(['aaa', 'aab', 'aba', 'abb', 'baa', 'bab', 'bba', 'bbb']);
  });

  test('shows older content of the same sector too', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      file.write([Buffer.from('0')], 0);
      await file.sync();
      file.write([Buffer.from('1')], 0);
      file.write([Buffer.from('2')], 0);
      return contentOf(disk.crash('power'), '/d/f');
    });
    expect([...seen].sort()).toEqual(['0', '1', '2']);
  });

  test('a length may come without its data, as zeroes, or be cut short', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      file.write([Buffer.alloc(1024, 'x')], 0);
      const content = contentOf(disk.crash('power'), '/d/f') ?? '';
      const data = [...new Set(content)].sort().join('');
      const length = content.length === 0 ? 'none' : content.length === 1024 ? 'all' : 'part';
      return `${length}:${data}`;
    });
    for (const expected of ['none:', 'all:x', 'all:\0', 'all:\0x'])
      expect(seen).toContain(expected);
    expect([...seen].some((outcome) => outcome.startsWith('part'))).toBe(true);
  });

  test('a truncation may be undone, but not once it was synced', async () => {
    const run =
      (synced: boolean) =>
      async (seed: number): Promise<string | undefined> => {
        const [disk, file] = await withFile(seed);
        file.write([Buffer.from('abcd')], 0);
        await file.sync();
        file.truncate(2);
        if (synced) await file.sync();
        return contentOf(disk.crash('power'), '/d/f');
      };
    expect([...(await outcomes(run(false)))].sort()).toEqual(['ab', 'abcd']);
    expect([...(await outcomes(run(true)))]).toEqual(['ab']);
  });

  test('a sync covers what was written before it began, not during it', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      file.write([Buffer.from('a')], 0);
      const sync = file.sync();
      file.write([Buffer.from('b')], 1);
      await sync;
      return contentOf(disk.crash('power'), '/d/f');
    });
    expect([...seen].sort()).toEqual(['a', 'a\0', 'ab']);
  });

  test('a synced file without a synced name may be gone; with one it is there', async () => {
    const run =
      (synced: boolean) =>
      async (seed: number): Promise<string | undefined> => {
        const [disk] = await withFile(seed);
        const file = disk.create('/d/new');
        file.write([Buffer.from('x')], 0);
        await file.sync();
        if (synced) await disk.syncDirectory('/d');
        return contentOf(disk.crash('power'), '/d/new');
      };
    expect(await outcomes(run(false))).toEqual(new Set(['x', undefined]));
    expect(await outcomes(run(true))).toEqual(new Set(['x']));
  });

  test('a synced directory whose own name was not synced may be gone', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk] = await withFile(seed);
      disk.makeDirectory('/d/e');
      disk.create('/d/e/x');
      await disk.syncDirectory('/d/e');
      const next = disk.crash('power');
      return `${next.list('/d').join()} ${next.list('/d/e').join()}`;
    });
    expect([...seen].sort()).toEqual(['e,f x', 'f ']);
  });

  test('names in one directory survive in order', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk] = await withFile(seed);
      for (const name of ['1', '2', '3']) disk.create(`/d/${name}`);
      disk.remove('/d/1');
      return disk.crash('power').list('/d').join('');
    });
    expect([...seen].sort()).toEqual(['12f', '123f', '1f', '23f', 'f'].sort());
  });

  test('a rename happened or did not, in both directories alike, and replaces at once', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      disk.makeDirectory('/e');
      await disk.syncDirectory('/');
      const other = disk.create('/e/f');
      await disk.syncDirectory('/e');
      file.write([Buffer.from('new')], 0);
      other.write([Buffer.from('old')], 0);
      await Promise.all([file.sync(), other.sync()]);
      disk.rename('/d/f', '/e/f');
      const next = disk.crash('power');
      return `${contentOf(next, '/d/f') ?? '-'} ${contentOf(next, '/e/f') ?? '-'}`;
    });
    expect([...seen].sort()).toEqual(['- new', 'new old']);
  });

  test('a rename synced in one directory is done in the other', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk] = await withFile(seed);
      disk.makeDirectory('/e');
      await disk.syncDirectory('/');
      disk.create('/d/later');
      disk.rename('/d/f', '/e/f');
      await disk.syncDirectory('/e');
      const next = disk.crash('power');
      return `${next.list('/d').join()} ${next.list('/e').join()}`;
    });
    expect([...seen]).toEqual(['later f']);
  });

  test('a removed file may be back, with content of any time', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      file.write([Buffer.from('x')], 0);
      await file.sync();
      disk.remove('/d/f');
      return contentOf(disk.crash('power'), '/d/f');
    });
    expect(seen).toEqual(new Set(['x', undefined]));
  });

  test('a run is repeated exactly by its seed', async () => {
    const run = async (): Promise<string> => {
      const [disk, file] = await withFile(77);
      for (let index = 0; index < 20; index++) {
        file.write([Buffer.alloc(3000, String(index % 10))], index * 700);
      }
      return contentOf(disk.crash('power'), '/d/f') ?? '';
    };
    expect(await run()).toBe(await run());
  });
});

describe('faults', () => {
  test('the n-th operation of a kind fails, once', async () => {
    const [disk, file] = await withFile(1);
    disk.fail({ kind: 'write', errno: 'EIO', nth: 2, path: (path) => path === '/d/f' });
    file.write([Buffer.from('a')], 0);
    expect(() => {
      file.write([Buffer.from('b')], 1);
    }).toThrow(expect.objectContaining({ code: 'INTERNAL' }));
    file.write([Buffer.from('c')], 1);
    expect(contentOf(disk, '/d/f')).toBe('ac');
  });

  test('all from the n-th on fail, until repaired', async () => {
    const [disk, file] = await withFile(1);
    disk.fail({ kind: 'sync', errno: 'ENOSPC', fromThenOn: true });
    await expect(file.sync()).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
    await expect(file.sync()).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
    disk.repair();
    await file.sync();
  });

  test('what a failed sync covered stays readable, and a later sync does not make it durable', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk, file] = await withFile(seed);
      file.write([Buffer.from('a')], 0);
      await file.sync();
      disk.fail({ kind: 'sync', errno: 'EIO' });
      file.write([Buffer.from('b')], 0);
      await expect(file.sync()).rejects.toMatchObject({ code: 'INTERNAL' });
      await file.sync();
      expect(contentOf(disk, '/d/f')).toBe('b');
      return contentOf(disk.crash('power'), '/d/f');
    });
    expect(seen).toEqual(new Set(['a', 'b']));
  });

  test('a failed directory sync likewise', async () => {
    const seen = await outcomes(async (seed) => {
      const [disk] = await withFile(seed);
      disk.create('/d/new');
      disk.fail({ kind: 'syncDirectory', errno: 'EIO' });
      await expect(disk.syncDirectory('/d')).rejects.toMatchObject({ code: 'INTERNAL' });
      await disk.syncDirectory('/d');
      expect(disk.list('/d')).toEqual(['f', 'new']);
      return disk.crash('power').list('/d').join();
    });
    expect(seen).toEqual(new Set(['f', 'f,new']));
  });

  test('a full disk refuses, and takes again what was freed once the last file is closed', async () => {
    const [disk, file] = await withFile(1, 16384);
    file.write([Buffer.alloc(16384, 'x')], 0);
    const other = disk.create('/d/g');
    expect(() => {
      other.write([Buffer.from('y')], 0);
    }).toThrow(expect.objectContaining({ code: 'OUT_OF_SPACE' }));
    expect((await disk.capacity('/')).availableBytes).toBe(0);
    disk.remove('/d/f');
    expect((await disk.capacity('/')).availableBytes).toBe(0);
    file.close();
    expect((await disk.capacity('/')).availableBytes).toBe(16384);
    other.write([Buffer.from('y')], 0);
  });

  test('cached reads can be made to miss', () => {
    const disk = new SimulatedDisk({ cacheMissProbability: 1 });
    const file = disk.create('/f');
    file.write([Buffer.from('x')], 0);
    expect(file.readCached(Buffer.alloc(1), 0)).toBe(false);
  });

  test('operations are counted', async () => {
    const [disk, file] = await withFile(1);
    file.write([Buffer.from('x')], 0);
    await file.sync();
    expect(disk.counts).toMatchObject({ write: 1, sync: 1, syncDirectory: 2, create: 1 });
  });
});
