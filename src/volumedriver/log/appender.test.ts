import { describe, expect, test } from '@jest/globals';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SeededRandom } from '../../../test/support/seeded-random.ts';
import { SimulatedDisk } from '../../../test/support/simulated-disk.ts';
import type { DiskFile } from '../disk/disk.ts';
import { LinuxDisk } from '../disk/linux-disk.ts';
import { describeAppender, type AppenderUnderTest } from './append-contract.ts';
import type { Appender, AppenderOptions } from './appender.ts';
import { AsyncAppender, createAppender } from './async-appender.ts';
import { SyncAppender } from './sync-appender.ts';

type Make = (file: DiskFile, options: AppenderOptions) => Appender;

/** A file of a disk that can't write off the thread. */
function withoutThread(file: DiskFile): DiskFile {
  return {
    path: file.path,
    write: file.write.bind(file),
    readCached: file.readCached.bind(file),
    readSync: file.readSync.bind(file),
    read: file.read.bind(file),
    sync: file.sync.bind(file),
    truncate: file.truncate.bind(file),
    sizeBytes: file.sizeBytes.bind(file),
    close: file.close.bind(file),
  };
}

function onLinuxDisk(make: Make): () => AppenderUnderTest {
  return () => {
    const directory = fs.mkdtempSync(join(tmpdir(), 'volumedriver-append-'));
    const file = new LinuxDisk().create(join(directory, 'log'));
    return {
      file,
      makeAppender: (options) => make(file, options),
      cleanUp: () => {
        fs.rmSync(directory, { recursive: true, force: true });
      },
    };
  };
}

function onSimulatedDisk(make: Make): () => AppenderUnderTest {
  let seed = 0;
  return () => {
    const disk = new SimulatedDisk({ seed: ++seed });
    const file = disk.create('/log');
    void disk.syncDirectory('/');
    return {
      file,
      makeAppender: (options) => make(file, options),
      cleanUp: () => undefined,
      faults: {
        failWrite: (errno) => {
          disk.fail({ kind: 'write', errno });
        },
        failSync: (errno) => {
          disk.fail({ kind: 'sync', errno });
        },
        repair: () => {
          disk.repair();
        },
        syncCount: () => disk.counts.sync,
        cutPower: () => disk.crash('power').durableContent('/log')?.toString('latin1') ?? '',
      },
    };
  };
}

const implementations: [string, Make][] = [
  ['SyncAppender', (file, options) => new SyncAppender(file, options)],
  ['createAppender', createAppender],
  [
    'createAppender without threads',
    (file, options) => createAppender(withoutThread(file), options),
  ],
];

for (const [name, make] of implementations) {
  describeAppender(`${name} on LinuxDisk`, onLinuxDisk(make), { canFail: false });
  describeAppender(`${name} on SimulatedDisk`, onSimulatedDisk(make), { canFail: true });
}

describe('createAppender', () => {
  test('writes off the thread where the disk can, at once where it cannot', () => {
    const file = new SimulatedDisk().create('/log');
    expect(createAppender(file, { position: 0 })).toBeInstanceOf(AsyncAppender);
    expect(createAppender(withoutThread(file), { position: 0 })).toBeInstanceOf(SyncAppender);
  });
});

describe.each(implementations)(
  '%s on a disk that loses its power at any operation',
  (_name, make) => {
    /** Appends, and syncs now and then without waiting; returns what was promised to be durable. */
    async function work(
      appender: Appender,
      seed: number,
    ): Promise<{ all: string; durable: number }> {
      const random = new SeededRandom(seed);
      const work = { all: '', durable: 0 };
      const syncs: Promise<void>[] = [];
      const sync = async (): Promise<void> => {
        const mark = work.all.length;
        await appender.sync();
        work.durable = Math.max(work.durable, mark);
      };
      try {
        for (let index = 0; index < 30; index++) {
          const record = `${index}:${'x'.repeat(random.integer(3000))};`;
          const appended = appender.append([Buffer.from(record)]);
          work.all += record;
          await appended;
          if (random.chance(0.3)) syncs.push(sync());
          if (random.chance(0.3)) await Promise.resolve();
        }
      } catch (error) {
        expect(error).toMatchObject({ code: 'HALTED' });
      }
      for (const result of await Promise.allSettled(syncs)) {
        if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'HALTED' });
      }
      return work;
    }

    test('whatever a sync has promised is there', async () => {
      for (let seed = 1; seed <= 150; seed++) {
        const disk = new SimulatedDisk({ seed });
        const file = disk.create('/log');
        await disk.syncDirectory('/');
        let next: SimulatedDisk | undefined;
        const crashAt = 3 + (seed % 50);
        disk.onOperation(({ number }) => {
          if (number === crashAt) next = disk.crash('power');
        });
        const { all, durable } = await work(make(file, { position: 0 }), seed);
        const found =
          (next ?? disk.crash('power')).durableContent('/log')?.toString('latin1') ?? '';
        expect(found.slice(0, durable)).toBe(all.slice(0, durable));
      }
    });
  },
);

describe('AsyncAppender', () => {
  /** Writes that end when told to. */
  function gated(): { appender: Appender; endWrite: () => Promise<void>; writes: string[] } {
    const file = new SimulatedDisk().create('/log');
    const writes: string[] = [];
    const gates: (() => void)[] = [];
    const write = async (buffers: readonly Uint8Array[], position: number): Promise<void> => {
      writes.push(Buffer.concat(buffers).toString());
      await new Promise<void>((resolve) => gates.push(resolve));
      file.write(buffers, position);
    };
    const endWrite = async (): Promise<void> => {
      gates.shift()?.();
      await new Promise(setImmediate);
    };
    const options = { position: 0, bytesInFlightMax: 10, requestsInFlightMax: 3 };
    return { appender: new AsyncAppender(file, write, options), endWrite, writes };
  }

  test('admits up to its bounds, then makes callers wait until a write has ended', async () => {
    const { appender, endWrite, writes } = gated();
    expect(appender.append([Buffer.from('aaaa')])).toBe(0);
    expect(appender.append([Buffer.from('bbbb')])).toBe(4);
    const third = appender.append([Buffer.from('cccc')]);
    const fourth = appender.append([Buffer.from('d')]);
    expect(third).toBeInstanceOf(Promise);
    expect(fourth).toBeInstanceOf(Promise); // it would fit, but order comes first
    await endWrite();
    expect(await third).toBe(8);
    expect(await fourth).toBe(12);
    let flushed = false;
    const flush = appender.flush().then(() => (flushed = true));
    await new Promise(setImmediate);
    expect(flushed).toBe(false);
    await endWrite();
    await flush;
    expect(writes).toEqual(['aaaa', 'bbbbccccd']);
  });

  test('without space, everybody who waits is told, and nothing is admitted until resume', async () => {
    const disk = new SimulatedDisk();
    const appender = createAppender(disk.create('/log'), { position: 0, requestsInFlightMax: 2 });
    disk.fail({ kind: 'write', errno: 'ENOSPC', fromThenOn: true });
    const calls = [
      ...['a', 'b', 'c'].map(async (letter) => await appender.append([Buffer.from(letter)])),
      appender.flush(),
      appender.sync(),
    ];
    const results = await Promise.allSettled(calls);
    expect(results.map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'rejected',
      'rejected',
      'rejected',
    ]);
    disk.repair();
    const full = { code: 'OUT_OF_SPACE' };
    await expect(appender.flush()).rejects.toMatchObject(full);
    await expect(appender.sync()).rejects.toMatchObject(full);
    expect(() => appender.append([Buffer.from('x')])).toThrow(expect.objectContaining(full));
    expect(appender.resume()).toBe(0);
    expect(appender.append([Buffer.from('x')])).toBe(0);
    await appender.destroy();
  });
});
