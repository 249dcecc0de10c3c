/**
 * What a product that cuts corners would fail: flushes are syncs of the files that hold the data, a disk that is full
 * loses nothing that was acknowledged, and SIGTERM ends in order under a client that writes. Against the built product.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import type { NbdClient } from '../../src/nbd/client.ts';
import { AttachSandbox } from '../support/attach-cleanup.ts';
import { blockBytes, knownBlock, writeBlocks, wrongBlocks } from '../support/known-blocks.ts';
import { MiB, Product, eventually } from '../support/product.ts';
import { describeRequires } from '../support/requires.ts';
import { tracedSyncs } from '../support/sync-trace.ts';

const limitMs = 120_000;

describeRequires(['root', 'linux', 'tool:strace', 'tool:fio'], 'a flush', () => {
  let product: Product;
  let volumeId = '';
  beforeAll(async () => {
    product = await Product.open();
    volumeId = (await product.volumes.createVolume({ name: 'synced', sizeBytes: 64 * MiB })).id;
  }, limitMs);
  afterAll(async () => {
    await product.close();
  });

  const kinds = (paths: readonly string[]): Record<'sco' | 'tlog', number> => ({
    sco: paths.filter((path) => path.endsWith('.sco')).length,
    tlog: paths.filter((path) => path.endsWith('.tlog')).length,
  });

  async function fio(...args: string[]): Promise<void> {
    const job = ['--name=sync', '--ioengine=nbd', `--uri=${product.uri(volumeId)}`, '--bs=4k'];
    await runCommand('fio', [...job, '--rw=randwrite', '--size=32m', '--minimal', ...args], {
      timeoutMs: 60_000,
    });
  }

  test(
    'of one write at a time syncs the data and its log each time',
    async () => {
      const writes = 50;
      const paths = await tracedSyncs(product.sandbox, product.pid, async () => {
        await fio('--iodepth=1', '--fsync=1', `--number_ios=${writes}`);
      });
      const { sco, tlog } = kinds(paths);
      // With one request at a time no two flushes can share a sync. fio may leave out the flush behind the last write.
      expect(sco).toBeGreaterThanOrEqual(writes - 1);
      expect(tlog).toBeGreaterThanOrEqual(writes - 1);
      // And one sync of either is enough for a flush: beyond that only what closes a file, a handful.
      expect(sco).toBeLessThanOrEqual(writes + 10);
      expect(tlog).toBeLessThanOrEqual(writes + 10);
    },
    limitMs,
  );

  test(
    'that runs beside others may share their sync, but never goes without one',
    async () => {
      const [writes, perFlush] = [512, 16];
      const paths = await tracedSyncs(product.sandbox, product.pid, async () => {
        await fio('--iodepth=32', `--fsync=${perFlush}`, `--number_ios=${writes}`);
      });
      const { sco, tlog } = kinds(paths);
      expect(Math.min(sco, tlog)).toBeGreaterThan(0);
      // Syncs are shared, never repeated: at most one of each file per flush, and a few when files are closed.
      expect(Math.max(sco, tlog)).toBeLessThanOrEqual(writes / perFlush + 10);
    },
    limitMs,
  );

  test(
    'with nothing new needs no sync; a FUA write needs its own',
    async () => {
      const client = await product.connect(volumeId);
      await client.write(0, knownBlock(0));
      await client.flush();
      const idle = await tracedSyncs(product.sandbox, product.pid, async () => {
        for (let i = 0; i < 20; i++) await client.flush();
      });
      expect(kinds(idle)).toEqual({ sco: 0, tlog: 0 });
      const fua = await tracedSyncs(product.sandbox, product.pid, async () => {
        for (let i = 0; i < 5; i++) await client.write(0, knownBlock(0, i), { fua: true });
      });
      expect(Math.min(kinds(fua).sco, kinds(fua).tlog)).toBeGreaterThanOrEqual(5);
      const plain = await tracedSyncs(product.sandbox, product.pid, async () => {
        for (let i = 0; i < 20; i++) await client.write(0, knownBlock(0, i));
      });
      // An acknowledged write is in the kernel's hands, and no more than that.
      expect(kinds(plain)).toEqual({ sco: 0, tlog: 0 });
      await client.disconnect();
    },
    limitMs,
  );
});

/** Writes block after block, a few at a time, until it is told to stop or a write fails. */
class Writer {
  readonly acknowledged = new Set<number>();
  failure: unknown = null;
  readonly #done: Promise<void>;
  #next: number;
  #stopped = false;

  constructor(client: NbdClient, options: { first: number; end: number; inFlight?: number }) {
    this.#next = options.first;
    const lanes = Array.from({ length: options.inFlight ?? 8 }, async () => {
      while (!this.#stopped && this.failure === null && this.#next < options.end) {
        const block = this.#next++;
        try {
          await client.write(block * blockBytes, knownBlock(block));
          this.acknowledged.add(block);
        } catch (error) {
          this.failure ??= error;
        }
      }
    });
    this.#done = Promise.all(lanes).then(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }

  async failed(): Promise<unknown> {
    await this.#done;
    return this.failure;
  }
}

/** Acknowledged blocks that do not read as what was written. */
async function lost(client: NbdClient, acknowledged: ReadonlySet<number>): Promise<number[]> {
  const blocks = [...acknowledged].sort((a, b) => a - b);
  const wrong = new Set<number>();
  for (let i = 0; i < blocks.length;) {
    const first = blocks[i] ?? 0;
    let count = 1;
    while (blocks[i + count] === first + count) count++;
    for (const block of await wrongBlocks(client, first, count)) wrong.add(block);
    i += count;
  }
  return [...wrong];
}

describe('SIGTERM', () => {
  test(
    'under a client that writes ends in order, and nothing needs recovery',
    async () => {
      const graceSeconds = 1;
      const product = await Product.open({ flags: ['--grace', `${graceSeconds}`] });
      try {
        const { id } = await product.volumes.createVolume({ name: 'busy', sizeBytes: 256 * MiB });
        const client = await product.connect(id);
        await client.trim(0, MiB);
        const writer = new Writer(client, { first: 0, end: 65_536, inFlight: 4 });
        await eventually('something is written', 10_000, () => writer.acknowledged.size > 100);
        const startedMs = performance.now();
        const before = writer.acknowledged.size;
        // The grace period, the drain of what is in flight, and the last checkpoint.
        const ended = await product.stop('SIGTERM', (graceSeconds + 5 + 20) * 1000);
        expect(ended).toEqual({ code: 0, signal: null });
        // Clients are served as long as the grace period lasts.
        expect(performance.now() - startedMs).toBeGreaterThan(graceSeconds * 1000 - 100);
        expect(writer.acknowledged.size).toBeGreaterThan(before);
        await writer.stop();
        // It was told so, not cut off with requests that nobody knows about.
        expect(writer.failure).toMatchObject({ name: 'VolumeError' });
        // An unclean volume would have left its log here.
        expect(await readdir(join(product.dataDirectory, 'volumes'))).toEqual([]);
        expect(product.logLines().filter(({ level }) => level === 'error')).toEqual([]);
        product.forgetLog();
        await product.start();
        const again = await product.connect(id);
        expect(await lost(again, writer.acknowledged)).toEqual([]);
        await again.disconnect();
        // What recovery has to say of a volume names it; a clean one gives no occasion.
        const told = product.logLines().filter(({ level, volumeId }) => {
          return level !== 'info' && volumeId !== undefined;
        });
        expect(told).toEqual([]);
      } finally {
        await product.close();
      }
    },
    limitMs,
  );

  test(
    'without clients does not wait for the grace period',
    async () => {
      const product = await Product.open({ flags: ['--grace', '60'] });
      try {
        const { id } = await product.volumes.createVolume({ name: 'idle', sizeBytes: 64 * MiB });
        const client = await product.connect(id);
        await writeBlocks(client, 0, 64);
        await client.disconnect();
        expect(await product.stop('SIGTERM', 20_000)).toEqual({ code: 0, signal: null });
      } finally {
        await product.close();
      }
    },
    limitMs,
  );
});

describeRequires(['root', 'linux'], 'a full disk', () => {
  let sandbox: AttachSandbox;
  let product: Product;
  beforeAll(async () => {
    sandbox = await AttachSandbox.open();
    const disk = join(sandbox.path, 'disk');
    await mkdir(disk);
    await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=192m', 'tmpfs', disk], {
      timeoutMs: 10_000,
    });
    product = await Product.open({
      sandbox,
      dataDirectory: join(disk, 'data'),
      backendDirectory: join(disk, 'backend'),
      flags: ['--reserve', '16MiB'],
    });
  }, limitMs);
  afterAll(async () => {
    await product.close();
    await sandbox.close();
  });

  test(
    'is told as ENOSPC, loses nothing acknowledged, and is left by deleting a volume',
    async () => {
      const { volumes } = product;
      const ballast = await volumes.createVolume({ name: 'ballast', sizeBytes: 64 * MiB });
      const { id } = await volumes.createVolume({ name: 'filled', sizeBytes: 1024 * MiB });
      const ballastClient = await product.connect(ballast.id);
      await writeBlocks(ballastClient, 0, (64 * MiB) / blockBytes);
      await ballastClient.flush();
      await ballastClient.disconnect();

      const client = await product.connect(id);
      const writer = new Writer(client, { first: 0, end: (1024 * MiB) / blockBytes });
      expect(await writer.failed()).toMatchObject({ code: 'OUT_OF_SPACE' });
      expect(writer.acknowledged.size).toBeGreaterThan((32 * MiB) / blockBytes);
      // Still served, and still true, in this process and, after it was killed, in the next one.
      expect(await lost(client, writer.acknowledged)).toEqual([]);
      await client.flush();
      await product.stop('SIGKILL');
      await product.start();
      const second = await product.connect(id);
      expect(await lost(second, writer.acknowledged)).toEqual([]);
      await expect(second.write(0, knownBlock(0))).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });

      await product.volumes.removeVolume(ballast.id, 'strict');
      const block = (1024 * MiB) / blockBytes - 1;
      await eventually('writes go on', 30_000, async () => {
        return await second.write(block * blockBytes, knownBlock(block)).then(
          () => true,
          () => false,
        );
      });
      await second.flush();
      expect(await lost(second, new Set([...writer.acknowledged, block]))).toEqual([]);
      await second.disconnect();
      expect(await product.stop('SIGTERM', 30_000)).toEqual({ code: 0, signal: null });
      await product.start();
      const third = await product.connect(id);
      expect(await lost(third, new Set([...writer.acknowledged, block]))).toEqual([]);
      await third.disconnect();
    },
    limitMs,
  );
});

describeRequires(['root', 'linux'], 'a disk that others fill', () => {
  test(
    'does not keep the volumedriver from starting, and what is deleted there makes room',
    async () => {
      const sandbox = await AttachSandbox.open();
      const disk = join(sandbox.path, 'disk');
      await mkdir(disk);
      await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=128m', 'tmpfs', disk], {
        timeoutMs: 10_000,
      });
      const product = await Product.open({
        sandbox,
        dataDirectory: join(disk, 'data'),
        backendDirectory: join(disk, 'backend'),
        flags: ['--reserve', '8MiB'],
      });
      try {
        const kept = await product.volumes.createVolume({ name: 'kept', sizeBytes: 64 * MiB });
        const doomed = await product.volumes.createVolume({ name: 'doomed', sizeBytes: 64 * MiB });
        for (const { id } of [kept, doomed]) {
          const client = await product.connect(id);
          await writeBlocks(client, 0, (24 * MiB) / blockBytes);
          await client.flush();
          await client.disconnect();
        }
        await product.stop('SIGKILL');
        // To the last byte; head(1) fails when there is no more.
        const fill = ['-c', `head -c 256m /dev/zero > '${join(disk, 'foreign')}'`];
        await runCommand('sh', fill, { timeoutMs: 20_000, acceptExitCodes: [0, 1] });
        await product.start();
        await product.volumes.removeVolume(doomed.id, 'strict');
        const client = await product.connect(kept.id);
        expect(await wrongBlocks(client, 0, (24 * MiB) / blockBytes)).toEqual([]);
        await eventually('writes go on', 30_000, async () => {
          return await client.write(0, knownBlock(0)).then(
            () => true,
            () => false,
          );
        });
        await client.flush();
        await client.disconnect();
        expect(await product.stop('SIGTERM', 40_000)).toEqual({ code: 0, signal: null });
      } finally {
        await product.close();
        await sandbox.close();
      }
    },
    limitMs,
  );
});

describeRequires(['root', 'linux'], 'a full backend', () => {
  test(
    'holds up neither writes nor SIGTERM, and gets what it lacks once it has room',
    async () => {
      const sandbox = await AttachSandbox.open();
      const backendDirectory = join(sandbox.path, 'backend');
      await mkdir(backendDirectory);
      const mount = async (options: string): Promise<void> => {
        const args = ['-t', 'tmpfs', '-o', options, 'tmpfs', backendDirectory];
        await runCommand('mount', args, { timeoutMs: 10_000 });
      };
      await mount('size=40m');
      const flags = ['--grace', '1', '--reserve', '1MiB'];
      const product = await Product.open({ sandbox, backendDirectory, flags });
      try {
        const { volumes } = product;
        const { id } = await volumes.createVolume({ name: 'v', sizeBytes: 256 * MiB });
        const client = await product.connect(id);
        const count = (60 * MiB) / blockBytes;
        await writeBlocks(client, 0, count);
        await client.flush();
        const snapshot = { volume: id, name: 's', timeoutSeconds: -1 };
        const { id: snapshotId } = await volumes.createSnapshot(snapshot);
        await client.disconnect();
        expect((await volumes.getSnapshot({ snapshot: snapshotId })).synced).toBe(false);
        expect(await product.stop('SIGTERM', 40_000)).toEqual({ code: 0, signal: null });

        await product.start();
        // It can't be opened without a commit; until then nobody is told that its newest snapshot were not there.
        await expect(product.connect(id)).rejects.toMatchObject({ name: 'VolumeError' });
        const lookUp = product.volumes.getSnapshot({ snapshot: snapshotId });
        await expect(lookUp).rejects.toMatchObject({ code: 'UNAVAILABLE' });
        await mount('remount,size=200m');
        const again = await product.connect(id);
        await product.volumes.waitSnapshot({ snapshot: snapshotId }, 60);
        expect(await wrongBlocks(again, 0, count)).toEqual([]);
        await again.disconnect();
        expect(await product.stop('SIGTERM', 40_000)).toEqual({ code: 0, signal: null });
        expect(await readdir(join(product.dataDirectory, 'volumes'))).toEqual([]);
      } finally {
        await product.close();
        await sandbox.close();
      }
    },
    limitMs,
  );
});
