/**
 * What every strategy must do, on real devices with a real NBD server. Needs root, blockdev, dd, mkfs.ext4,
 * mkfs.xfs, mount and fstrim; the harness brings the server, the attacher and the end of everything.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../volumes/command.ts';
import type { Device, DeviceService } from '../volumes/device-service.ts';

export type ServerRequest = 'Write' | 'Flush' | 'Trim' | 'Zero';

/** An NBD server over data that outlives it. Any export name opens the same data. */
export interface ContractServer {
  uri(exportName: string): string;
  /** Serves; with `only`, every other export is refused. */
  start(only?: string): Promise<void>;
  /** Ends it as kill -9 does. */
  kill(): Promise<void>;
  /** Neither answers nor closes connections. */
  pause(): void;
  resume(): void;
  /** New connections see the new size. */
  setSizeBytes(sizeBytes: number): Promise<void>;
  /** How many requests of a kind arrived since it was created. */
  count(request: ServerRequest): Promise<number>;
}

export interface Attacher extends DeviceService {
  start(): Promise<void>;
  close(): Promise<void>;
}

export interface ContractHarness {
  /** For the test's own files; everything in it is removed at the end. */
  readonly folder: string;
  /** A new process's worth of attacher over the same state directory, not started. */
  newAttacher(): Attacher;
  /** A server with its own data, not started. */
  newServer(name: string, sizeBytes: number): Promise<ContractServer>;
  /** What of all devices ever made still exists; empty when none is attached. */
  leftovers(): Promise<string[]>;
  close(): Promise<void>;
}

const MiB = 1024 * 1024;
const sizeBytes = 64 * MiB;
const timeoutMs = 20_000;

/** Detaching is bounded: its own limits in the harness, and this around them. */
const detachBoundMs = 15_000;

export function attacherContract(name: string, openHarness: () => Promise<ContractHarness>): void {
  describe(`attacher contract: ${name}`, () => {
    let harness: ContractHarness;
    let attacher: Attacher;

    beforeAll(async () => {
      harness = await openHarness();
      attacher = harness.newAttacher();
      await attacher.start();
    });
    afterAll(async () => {
      await harness.close();
    });

    /** A started server of its own and a volume attached from it; everything is undone afterwards. */
    async function withDevice(
      volumeId: string,
      body: (device: Device, server: ContractServer) => Promise<void>,
      options: { readOnly?: boolean; sizeBytes?: number } = {},
    ): Promise<void> {
      const server = await harness.newServer(volumeId, options.sizeBytes ?? sizeBytes);
      await server.start();
      try {
        const uri = server.uri(`${volumeId}#1`);
        const device = await attacher.attach({
          volumeId,
          uri,
          readOnly: options.readOnly ?? false,
        });
        await body(device, server);
      } finally {
        server.resume();
        await attacher.detach(volumeId);
        await server.kill();
      }
      expect(await harness.leftovers()).toEqual([]);
    }

    async function mounted(device: string, body: (folder: string) => Promise<void>): Promise<void> {
      const folder = join(harness.folder, 'mnt');
      await mkdir(folder, { recursive: true });
      await run('mount', [device, folder]);
      try {
        await body(folder);
      } finally {
        await run('umount', [folder]);
      }
    }

    test('shows the export as a block device, once', async () => {
      await withDevice('once', async (device, server) => {
        const { path } = device;
        const uri = server.uri('once#1');
        expect(device).toMatchObject({ volumeId: 'once', sizeBytes, readOnly: false, uri });
        expect(device).toMatchObject({ state: 'attached', reason: '' });
        expect(await run('blockdev', ['--getsize64', '--getss', '--getro', path])).toBe(
          `${sizeBytes}\n512\n0\n`,
        );
        expect(await attacher.attach({ volumeId: 'once', uri, readOnly: false })).toEqual(device);
        expect(await attacher.getDevice('once')).toEqual(device);
        expect(await attacher.listDevices()).toEqual([device]);
        const other = { volumeId: 'once', uri: server.uri('once#2'), readOnly: false };
        await expect(attacher.attach(other)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
        const otherMode = { volumeId: 'once', uri, readOnly: true };
        await expect(attacher.attach(otherMode)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
        expect(await attacher.getDevice('once')).toEqual(device);
      });
      await attacher.detach('once');
      await expect(attacher.getDevice('once')).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
      await expect(attacher.resize('once', sizeBytes)).rejects.toMatchObject({
        code: 'PATH_NOT_FOUND',
      });
      expect(await attacher.listDevices()).toEqual([]);
    });

    test('fails cleanly when there is nothing to attach', async () => {
      const server = await harness.newServer('nothing', sizeBytes);
      const request = { volumeId: 'nothing', uri: server.uri('nothing#1'), readOnly: false };
      await expect(attacher.attach(request)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      await server.start('another');
      await expect(attacher.attach(request)).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
      await server.kill();
      const bad = { ...request, uri: 'http://example.com/' };
      await expect(attacher.attach(bad)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      expect(await attacher.listDevices()).toEqual([]);
      expect(await harness.leftovers()).toEqual([]);
    });

    test('lets one operation at a time work on a volume', async () => {
      const server = await harness.newServer('pending', sizeBytes);
      await server.start();
      const request = { volumeId: 'pending', uri: server.uri('pending#1'), readOnly: false };
      const first = attacher.attach(request);
      await expect(attacher.attach(request)).rejects.toMatchObject({ code: 'OPERATION_PENDING' });
      await expect(attacher.detach('pending')).rejects.toMatchObject({ code: 'OPERATION_PENDING' });
      expect(await attacher.listDevices()).toEqual([]);
      await first;
      await attacher.detach('pending');
      await server.kill();
    });

    test('attaches and detaches many volumes side by side', async () => {
      const server = await harness.newServer('many', sizeBytes);
      await server.start();
      const ids = ['a', 'b', 'c', 'd', 'e', 'f'].map((letter) => `many-${letter}`);
      const devices = await Promise.all(
        ids.map((volumeId) =>
          attacher.attach({ volumeId, uri: server.uri(volumeId), readOnly: true }),
        ),
      );
      expect(new Set(devices.map(({ path }) => path)).size).toBe(ids.length);
      const listed = await attacher.listDevices();
      expect(new Set(listed.map(({ volumeId }) => volumeId))).toEqual(new Set(ids));
      await Promise.all(ids.map((volumeId) => attacher.detach(volumeId)));
      expect(await harness.leftovers()).toEqual([]);
      await server.kill();
    });

    test('writes what is dirty before it detaches', async () => {
      const server = await harness.newServer('dirty', sizeBytes);
      await server.start();
      const request = { volumeId: 'dirty', uri: server.uri('dirty#1'), readOnly: false };
      const { path } = await attacher.attach(request);
      await writeBlocks(path, 0, 64, 'dirty');
      const flushes = await server.count('Flush');
      await attacher.detach('dirty');
      expect(await server.count('Flush')).toBeGreaterThan(flushes);
      const again = await attacher.attach(request);
      await expectBlocks(again.path, 0, 64, 'dirty');
      await attacher.detach('dirty');
      await server.kill();
    });

    test('carries ext4 and its flushes', async () => {
      await withDevice('ext4', async ({ path }, server) => {
        await run('mkfs.ext4', ['-q', '-E', 'nodiscard', path]);
        await mounted(path, async (folder) => {
          const flushes = await server.count('Flush');
          await writeDurably(join(folder, 'file'), Buffer.alloc(8 * MiB, 'x'));
          expect(await server.count('Flush')).toBeGreaterThan(flushes);
          await run('fstrim', ['-v', folder]);
        });
        await run('e2fsck', ['-fn', path]);
      });
    });

    test('carries discards, or refuses them and harms nothing', async () => {
      await withDevice('discard', async ({ path }, server) => {
        await writeBlocks(path, 0, 512, 'discard');
        await run('sync', [path]);
        const before = await server.count('Trim');
        const discarded = await discard(path, 256 * blockBytes, 256 * blockBytes);
        if (discarded) expect(await server.count('Trim')).toBeGreaterThan(before);
        else process.stderr.write('  the device refuses discards (qemu 10 does)\n');
        await expectBlocks(path, 0, 256, 'discard');
      });
    });

    test('keeps writes that run side by side apart', async () => {
      await withDevice('parallel', async ({ path }) => {
        const writers = [0, 1, 2, 3].map(async (part) => {
          await writeBlocks(path, part * 1024, 1024, 'side');
        });
        await Promise.all(writers);
        await run('sync', [path]);
        await expectBlocks(path, 0, 4096, 'side');
      });
    });

    test('passes zeroing on as such', async () => {
      await withDevice('zero', async ({ path }, server) => {
        await writeBlocks(path, 0, 16, 'zero');
        await run('blkdiscard', [
          '--force',
          '--zeroout',
          '--offset',
          '0',
          '--length',
          '32768',
          path,
        ]);
        expect(await server.count('Zero')).toBeGreaterThan(0);
        await expectBlocks(path, 8, 8, 'zero');
        const read = await run('dd', [
          `if=${path}`,
          'bs=4096',
          'count=8',
          'iflag=direct',
          'status=none',
        ]);
        expect(read).toBe('\0'.repeat(32768));
      });
    });

    test('refuses writes to a read-only device', async () => {
      await withDevice(
        'ro',
        async ({ path, readOnly }, server) => {
          expect(readOnly).toBe(true);
          expect(await run('blockdev', ['--getro', path])).toBe('1\n');
          await expect(writeBlocks(path, 0, 1, 'ro')).rejects.toThrow();
          await expect(run('blkdiscard', ['--force', path])).rejects.toThrow();
          expect(
            (await run('dd', [`if=${path}`, 'bs=4096', 'count=1', 'status=none'])).length,
          ).toBe(4096);
          expect([await server.count('Write'), await server.count('Trim')]).toEqual([0, 0]);
        },
        { readOnly: true },
      );
    });

    test('grows under a mounted filesystem', async () => {
      const small = 320 * MiB;
      const large = 512 * MiB;
      const body = async ({ path }: Device, server: ContractServer): Promise<void> => {
        await run('mkfs.xfs', ['-q', '-K', path]);
        await mounted(path, async (folder) => {
          await writeDurably(join(folder, 'file'), Buffer.alloc(MiB, 'g'));
          await expect(attacher.resize('grow', large)).rejects.toMatchObject({
            code: 'OUT_OF_RANGE',
          });
          await server.setSizeBytes(large);
          expect(await attacher.resize('grow', large)).toMatchObject({ path, sizeBytes: large });
          expect(await attacher.resize('grow', large)).toMatchObject({ path, sizeBytes: large });
          expect(await run('blockdev', ['--getsize64', path])).toBe(`${large}\n`);
          await run('xfs_growfs', [folder]);
          expect(Number(await run('stat', ['-f', '-c', '%b', folder])) * 4096).toBeGreaterThan(
            small,
          );
          await writeDurably(join(folder, 'more'), Buffer.alloc(300 * MiB, 'm'));
          await server.kill();
          await expect(attacher.resize('grow', large + MiB)).rejects.toMatchObject({
            code: 'UNAVAILABLE',
          });
          await server.start();
        });
        await run('xfs_repair', ['-n', path]);
      };
      await withDevice('grow', body, { sizeBytes: small });
    });

    test('waits for a server that was killed under writes', async () => {
      await withDevice('wait', async ({ path }, server) => {
        const writer = keepWriting(path, 2000);
        await delay(300);
        await server.kill();
        const before = writer.written();
        await delay(500);
        const waiting = await attacher.getDevice('wait');
        expect(waiting).toMatchObject({ path, state: 'waiting' });
        expect(waiting.reason).not.toBe('');
        expect(await attacher.listDevices()).toEqual([waiting]);
        await server.start();
        await waitFor(async () => await Promise.resolve(writer.written() > before + 10));
        expect(await attacher.getDevice('wait')).toMatchObject({ state: 'attached', reason: '' });
        const written = await writer.stop();
        expect(written).toBeGreaterThan(before);
        await expectBlocks(path, 0, written, 'keep');
      });
    });

    test('reports an export that is refused as broken, and detaches it in time', async () => {
      await withDevice('fenced', async ({ path }, server) => {
        await writeBlocks(path, 0, 1, 'fenced');
        await server.kill();
        await server.start('fenced#2');
        const device = await attacher.getDevice('fenced');
        expect(device).toMatchObject({ path, state: 'broken' });
        expect(device.reason).toContain('refused');
        await detachInTime('fenced');
      });
    });

    test.each(['killed', 'paused'])('detaches in time from a server that is %s', async (how) => {
      const volumeId = `gone-${how}`;
      await withDevice(volumeId, async ({ path }, server) => {
        const writer = keepWriting(path, 2000);
        await delay(100);
        if (how === 'killed') await server.kill();
        else server.pause();
        await delay(100);
        await detachInTime(volumeId);
        // The blocked write fails now, and so the device can go.
        await expect(writer.stop()).rejects.toThrow();
        await waitFor(async () => (await harness.leftovers()).length === 0);
      });
    });

    async function detachInTime(volumeId: string): Promise<void> {
      const started = performance.now();
      await attacher.detach(volumeId);
      expect(performance.now() - started).toBeLessThan(detachBoundMs);
      await expect(attacher.getDevice(volumeId)).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
    }

    test('is restarted without a trace in the I/O', async () => {
      await withDevice('restart', async (device) => {
        const writer = keepWriting(device.path, 2000);
        await attacher.close();
        await expect(attacher.getDevice('restart')).rejects.toMatchObject({
          code: 'SHUTTING_DOWN',
        });
        const before = writer.written();
        attacher = harness.newAttacher();
        await expect(attacher.getDevice('restart')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
        await attacher.start();
        expect(await attacher.listDevices()).toEqual([device]);
        await waitFor(async () => await Promise.resolve(writer.written() > before));
        const { uri } = device;
        expect(await attacher.attach({ volumeId: 'restart', uri, readOnly: false })).toEqual(
          device,
        );
        await expectBlocks(device.path, 0, await writer.stop(), 'keep');
      });
    });
  });
}

async function run(command: string, args: string[]): Promise<string> {
  return (await runCommand(command, args, { timeoutMs })).stdout;
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function waitFor(question: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await question())) {
    if (performance.now() > deadline)
      throw new Error('what the test waits for did not happen in time');
    await delay(20);
  }
}

async function writeDurably(path: string, data: Buffer): Promise<void> {
  await writeFile(path, data, { flush: true });
}

const blockBytes = 4096;

/** Every block differs, so that a misplaced one is noticed. */
function block(number: number, seed: string): Buffer {
  return Buffer.alloc(blockBytes, `${seed}-${number};`);
}

/** Through the page cache, not flushed. */
async function writeBlocks(
  path: string,
  first: number,
  count: number,
  seed: string,
): Promise<void> {
  const file = await open(path, 'r+');
  try {
    for (let number = first; number < first + count; number++) {
      await file.write(block(number, seed), 0, blockBytes, number * blockBytes);
    }
  } finally {
    await file.close();
  }
}

/** Past the page cache: what the server has. */
async function expectBlocks(
  path: string,
  first: number,
  count: number,
  seed: string,
): Promise<void> {
  const chunk = 512;
  for (let at = first; at < first + count; at += chunk) {
    const length = Math.min(chunk, first + count - at);
    const where = [`skip=${at}`, `count=${length}`, 'bs=4096', 'iflag=direct', 'status=none'];
    const read = await run('dd', [`if=${path}`, ...where]);
    const expected = Array.from({ length }, (_, next) => block(at + next, seed).toString());
    expect({ at, equal: read === expected.join('') }).toEqual({ at, equal: true });
  }
}

/** A discard may reach the server as zeroes that need no space: so qemu 10 sends what qemu 7 trims. */
/** Whether the device took it. */
async function discard(path: string, offset: number, length: number): Promise<boolean> {
  try {
    await run('blkdiscard', ['--offset', String(offset), '--length', String(length), path]);
    return true;
  } catch (error) {
    if (String(error).includes('not supported')) return false;
    throw error;
  }
}

interface Writer {
  written(): number;
  /** Rejects when a write failed. */
  stop(): Promise<number>;
}

/** Writes one block after the other, each waiting until the device has it. */
function keepWriting(path: string, count: number): Writer {
  let written = 0;
  let left = count;
  const done = (async () => {
    const file = await open(path, 'rs+');
    try {
      while (written < left) {
        await file.write(block(written, 'keep'), 0, blockBytes, written * blockBytes);
        written += 1;
        await delay(1);
      }
    } finally {
      await file.close();
    }
  })();
  // Whoever stops it learns; a failure before that must not end the process.
  done.catch(() => undefined);
  return {
    written: () => written,
    stop: async () => {
      left = 0;
      await done;
      return written;
    },
  };
}
