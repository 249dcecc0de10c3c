/** LinuxMounts where filesystems misbehave: odd paths, stacks, dead and hung devices. As root only. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  access,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeRequires } from '../../test/support/requires.ts';
import { runCommand } from '../volumes/command.ts';
import { parseMountinfo } from './mountinfo.ts';
import { LinuxMounts } from './mounts.ts';

const limit = { timeoutMs: 20_000 };
const mounts = new LinuxMounts(runCommand, { mountMs: 10_000, unmountMs: 1_500, lookMs: 1_000 });

let directory: string;
let loops: string[];
let daemon: ChildProcess | undefined;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mounts-'));
  loops = [];
});

afterEach(async () => {
  if (daemon !== undefined) {
    daemon.kill('SIGKILL');
    if (daemon.exitCode === null && daemon.signalCode === null) await once(daemon, 'exit');
    daemon = undefined;
  }
  const entries = parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
  for (const { mountPoint } of entries.reverse()) {
    if (mountPoint.startsWith(`${directory}/`))
      await runCommand('umount', ['-l', mountPoint], limit);
  }
  for (const loop of loops) await runCommand('losetup', ['--detach', loop], limit);
  await rm(directory, { recursive: true, force: true });
});

async function attachLoop(file: string): Promise<string> {
  const { stdout } = await runCommand('losetup', ['--find', '--show', file], limit);
  loops.push(stdout.trim());
  return stdout.trim();
}

async function ext4(name: string): Promise<string> {
  const file = join(directory, `${name}.img`);
  await writeFile(file, '');
  await truncate(file, 16 * 1024 * 1024);
  await runCommand('mkfs.ext4', ['-q', '-F', file], limit);
  return await attachLoop(file);
}

async function folder(name: string): Promise<string> {
  const path = join(directory, name);
  await mkdir(path);
  return path;
}

describeRequires(['linux', 'root', 'loop', 'tool:mkfs.ext4'], 'LinuxMounts', () => {
  test.each(['plain', 'with space', 'tab\there', 'back\\slash\\040', 'ümläut', '-o'])(
    'mounts, finds, binds and unmounts at %p',
    async (name) => {
      const device = await ext4('disk');
      const path = await folder(name);
      const target = await folder(`${name} bound`);
      expect(await mounts.at(path)).toEqual([]);
      await mounts.mountDevice({ device, path, fsType: 'ext4', options: ['noatime'] });
      expect(await mounts.at(path)).toMatchObject([{ fsType: 'ext4', source: device }]);
      expect(await mounts.health(path)).toBe('usable');
      const { bytes, inodes } = await mounts.usage(path);
      expect(bytes.used + bytes.available).toBeLessThanOrEqual(bytes.total);
      expect(inodes.used).toBeGreaterThan(0);
      await mounts.bind({ source: path, path: target, readOnly: true });
      await expect(writeFile(join(target, 'x'), '')).rejects.toThrow('EROFS');
      await writeFile(join(path, 'x'), '');
      for (const mounted of [target, target, path]) await mounts.unmountAll(mounted);
      expect(await mounts.at(path)).toEqual([]);
      expect(await mounts.at(target)).toEqual([]);
    },
  );

  test('sees mounts behind a symbolic link', async () => {
    const device = await ext4('disk');
    const real = await folder('real');
    await mkdir(join(real, 'here'));
    await symlink(real, join(directory, 'link'));
    const path = join(directory, 'link', 'here');
    await mounts.mountDevice({ device, path, fsType: 'ext4', options: [] });
    expect(await mounts.at(path)).toHaveLength(1);
    await mounts.unmountAll(path);
    expect(await mounts.at(join(real, 'here'))).toEqual([]);
  });

  test('unmounts a stack', async () => {
    const path = await folder('stack');
    for (const name of ['one', 'two', 'three']) {
      const device = await ext4(name);
      await mounts.mountDevice({ device, path, fsType: 'ext4', options: [] });
    }
    expect(await mounts.at(path)).toHaveLength(3);
    await mounts.unmountAll(path);
    expect(await mounts.at(path)).toEqual([]);
  });

  test('a path that is not there is not mounted', async () => {
    const path = join(directory, 'no', 'such', 'path');
    expect(await mounts.at(path)).toEqual([]);
    await mounts.unmountAll(path);
    expect(await mounts.health(path)).toBe('broken');
  });

  test('a refused mount names its reason', async () => {
    const device = await ext4('disk');
    const path = await folder('path');
    await expect(
      mounts.mountDevice({ device, path, fsType: 'xfs', options: ['secret=hunter2'] }),
    ).rejects.toMatchObject({
      code: 'INTERNAL',
      message: expect.not.stringContaining('hunter2'),
    });
    expect(await mounts.at(path)).toEqual([]);
  });
});

describeRequires(
  ['linux', 'root', 'loop', 'fuse', 'tool:mkfs.ext4', 'tool:qemu-storage-daemon'],
  'a device that stops answering',
  () => {
    /** ext4 on a loop device over a FUSE file, whose daemon the test can stop. */
    async function mountOverDaemon(path: string): Promise<ChildProcess> {
      const image = join(directory, 'image');
      const file = join(directory, 'fuse-file');
      await writeFile(image, '');
      await truncate(image, 64 * 1024 * 1024);
      await writeFile(file, '');
      const child = spawn(
        'qemu-storage-daemon',
        [
          ...['--blockdev', `driver=file,node-name=n,filename=${image}`],
          ...['--export', `type=fuse,id=e,node-name=n,mountpoint=${file},writable=on`],
        ],
        { stdio: 'ignore' },
      );
      daemon = child;
      for (let round = 0; (await mounts.at(file)).length === 0; round += 1) {
        if (round > 100) throw new Error('the daemon did not come up');
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const device = await attachLoop(file);
      await runCommand('mkfs.ext4', ['-q', '-F', device], limit);
      await mounts.mountDevice({ device, path, fsType: 'ext4', options: [] });
      return child;
    }

    test('is reported as hung, and unmounted lazily within the limits', async () => {
      const path = await folder('path');
      const child = await mountOverDaemon(path);
      await writeFile(join(path, 'dirty'), Buffer.alloc(1024 * 1024, 1));
      child.kill('SIGSTOP');
      const startMs = performance.now();
      await mounts.unmountAll(path);
      expect(performance.now() - startMs).toBeLessThan(15_000);
      expect(await mounts.at(path)).toEqual([]);
    });

    test('is reported as broken once its daemon is gone, and unmounted', async () => {
      const path = await folder('path');
      const child = await mountOverDaemon(path);
      await writeFile(join(path, 'dirty'), 'x');
      child.kill('SIGKILL');
      await once(child, 'exit');
      await runCommand('sync', ['--file-system', path], { ...limit, acceptExitCodes: [0, 1] });
      await mounts.unmountAll(path);
      expect(await mounts.at(path)).toEqual([]);
      await access(path);
    });
  },
);
