/** The part of the attacher's contract about what devices carry: blocks, filesystems, discards, and more room. */
import { expect, test } from '@jest/globals';
import { join } from 'node:path';
import type { Device } from '../volumes/device-service.ts';
import type { ContractServer, ContractTraits } from './attacher-contract.ts';
import {
  blockBytes,
  discard,
  expectBlocks,
  MiB,
  run,
  sizeBytes,
  writeBlocks,
  writeDurably,
  type ContractWorld,
} from './attacher-world-contract.ts';

/** Of 8 MiB of the letter x. */
const sumOfFile = '0c77bc0a0795a93612d45256897456d0fcb24f151c44c150d07ecd03f4ef5168';

/** How each filesystem is made without a discard of the whole device, grown while mounted, and checked. */
const filesystems = {
  ext4: {
    make: (device: string) => run('mkfs.ext4', ['-q', '-E', 'nodiscard', device]),
    grow: (device: string, _folder: string) => run('resize2fs', [device]),
    check: (device: string) => run('e2fsck', ['-fn', device]),
  },
  xfs: {
    make: (device: string) => run('mkfs.xfs', ['-q', '-K', device]),
    grow: (_device: string, folder: string) => run('xfs_growfs', [folder]),
    check: (device: string) => run('xfs_repair', ['-n', device]),
  },
} as const;

export function dataContract(world: ContractWorld, traits: ContractTraits): void {
  blockContract(world, traits);
  filesystemContract(world);
  growContract(world, traits);
}

function blockContract(world: ContractWorld, traits: ContractTraits): void {
  test('carries discards, or refuses them and harms nothing', async () => {
    await world.withDevice('discard', async ({ path }, server) => {
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
    await world.withDevice('parallel', async ({ path }) => {
      const writers = [0, 1, 2, 3].map(async (part) => {
        await writeBlocks(path, part * 1024, 1024, 'side');
      });
      await Promise.all(writers);
      await run('sync', [path]);
      await expectBlocks(path, 0, 4096, 'side');
    });
  });

  test('passes zeroing on as such', async () => {
    await world.withDevice('zero', async ({ path }, server) => {
      await writeBlocks(path, 0, 16, 'zero');
      await run('blkdiscard', ['--force', '--zeroout', '--offset', '0', '--length', '32768', path]);
      if (traits.passesZeroing) expect(await server.count('Zero')).toBeGreaterThan(0);
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
    await world.withDevice(
      'ro',
      async ({ path, readOnly }, server) => {
        expect(readOnly).toBe(true);
        expect(await run('blockdev', ['--getro', path])).toBe('1\n');
        await expect(writeBlocks(path, 0, 1, 'ro')).rejects.toThrow();
        await expect(run('blkdiscard', ['--force', path])).rejects.toThrow();
        expect((await run('dd', [`if=${path}`, 'bs=4096', 'count=1', 'status=none'])).length).toBe(
          4096,
        );
        expect([await server.count('Write'), await server.count('Trim')]).toEqual([0, 0]);
      },
      { readOnly: true },
    );
  });

  test('is a raw block device up to its last sector', async () => {
    await world.withDevice('raw', async ({ path }) => {
      const last = sizeBytes / 512 - 1;
      const from = `if=${path}`;
      const direct = ['bs=512', 'count=1', 'status=none'];
      await run('dd', [from, `of=${path}`, `seek=${last}`, 'oflag=direct', ...direct]);
      await run('dd', [from, 'of=/dev/null', `skip=${last}`, 'iflag=direct', ...direct]);
      const beyond = ['if=/dev/zero', `of=${path}`, `seek=${last + 1}`, 'oflag=direct', ...direct];
      await expect(run('dd', beyond)).rejects.toThrow('No space left');
    });
  });
}

function filesystemContract(world: ContractWorld): void {
  test.each(['ext4', 'xfs'] as const)('carries %s and its flushes', async (type) => {
    const { make, check } = filesystems[type];
    const body = async ({ path }: Device, server: ContractServer): Promise<void> => {
      await make(path);
      await world.mounted(path, async (folder) => {
        const flushes = await server.count('Flush');
        await writeDurably(join(folder, 'file'), Buffer.alloc(8 * MiB, 'x'));
        expect(await server.count('Flush')).toBeGreaterThan(flushes);
        await run('fstrim', ['-v', folder]);
      });
      await world.mounted(path, async (folder) => {
        expect(await run('sha256sum', [join(folder, 'file')])).toContain(sumOfFile);
      });
      await check(path);
    };
    // xfs is at least 300 MB large.
    await world.withDevice(type, body, { sizeBytes: 320 * MiB });
  });
}

function growContract(world: ContractWorld, { growing }: ContractTraits): void {
  test.each(growing)('grows under a mounted %s', async (type) => {
    const small = 320 * MiB;
    const large = 512 * MiB;
    const id = `grow-${type}`;
    const { make, grow, check } = filesystems[type];
    const body = async ({ path }: Device, server: ContractServer): Promise<void> => {
      await make(path);
      await world.mounted(path, async (folder) => {
        await writeDurably(join(folder, 'file'), Buffer.alloc(MiB, 'g'));
        await expect(world.attacher.resize(id, large)).rejects.toMatchObject({
          code: 'OUT_OF_RANGE',
        });
        await server.setSizeBytes(large);
        expect(await world.attacher.resize(id, large)).toMatchObject({ path, sizeBytes: large });
        expect(await world.attacher.resize(id, large)).toMatchObject({ path, sizeBytes: large });
        expect(await run('blockdev', ['--getsize64', path])).toBe(`${large}\n`);
        await grow(path, folder);
        const [blocks, blockSize] = (await run('stat', ['-f', '-c', '%b %S', folder])).split(' ');
        expect(Number(blocks) * Number(blockSize)).toBeGreaterThan(small);
        // More than there was room for: what is written then lies behind the old end.
        await run('fallocate', ['--length', String(small), join(folder, 'filler')]);
        await writeDurably(join(folder, 'more'), Buffer.alloc(16 * MiB, 'm'));
        await server.kill();
        await expect(world.attacher.resize(id, large + MiB)).rejects.toMatchObject({
          code: 'UNAVAILABLE',
        });
        await server.start();
      });
      await check(path);
    };
    await world.withDevice(id, body, { sizeBytes: small, growing: true });
  });
}
