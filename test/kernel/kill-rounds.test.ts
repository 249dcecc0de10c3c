/**
 * Promise 1 with a real filesystem: the volumedriver is killed (kill -9) again and again while fio writes and verifies
 * files of a mounted ext4. Nobody may see an I/O error, and everything is there afterwards. ROUNDS=N kills so often.
 */
import { expect } from '@jest/globals';
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import { listMounts } from '../../src/attacher/mounts.ts';
import { systemClock } from '../../src/base/clock.ts';
import {
  countFrom,
  dropCaches,
  eventually,
  MiB,
  RealDriver,
  tell,
} from '../support/real-driver.ts';
import { testRequires } from '../support/requires.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const rounds = countFrom('ROUNDS', 25);
const seed = countFrom('SEED', Date.now() % 2 ** 31);
const files = ['small', 'large'] as const;

testRequires(
  [
    ...(['root', 'linux', 'fuse', 'loop', 'tool:qemu-storage-daemon', 'tool:mkfs.ext4'] as const),
    ...(['tool:e2fsck', 'tool:fio', 'tool:nbdcopy'] as const),
  ],
  `ext4 lives through ${rounds} kills of the volumedriver under fio`,
  async () => {
    const driver = await RealDriver.open({ roles: ['volumedriver', 'attacher', 'plugin'] });
    try {
      await killRounds(driver);
    } catch (error) {
      throw new Error(`seed ${seed}; the driver said: ${driver.log()}`, { cause: error });
    } finally {
      await driver.close();
    }
  },
  60_000 + rounds * 6_000,
);

async function killRounds(driver: RealDriver): Promise<void> {
  const random = new SeededRandom(seed);
  const { csi, sandbox } = driver;
  const pod = await csi.startPod(sandbox.path, 'pod', 256 * MiB);
  const { name, options } = await mountAt(pod.targetPath);
  const errorsPath = `/sys/fs/ext4/${name}/errors_count`;

  const load = new Load(pod.targetPath);
  const running = load.run();
  // Seen where it is awaited, below.
  running.catch(() => undefined);
  const { generation } = await driver.volumes.getVolume(pod.volumeId);
  const pauses: number[] = [];
  for (let round = 0; round < rounds && !load.ended; round++) {
    await systemClock.sleep(100 + random.integer(500));
    const killedMs = performance.now();
    await driver.kill('volumedriver');
    // Verifying must ask the volumedriver, not the page cache.
    if (random.chance(0.5)) dropCaches();
    await driver.ready();
    // Raised if the log was cut: then acknowledged writes are gone, and the device waits for ever.
    expect((await driver.volumes.getVolume(pod.volumeId)).generation).toBe(generation);
    await progress(name);
    pauses.push(performance.now() - killedMs);
  }
  load.stop();
  await running;
  tell(
    `seed ${seed}: ${pauses.length} kills in ${load.passes} passes of fio; ` +
      `I/O paused for ${Math.round(Math.min(...pauses))} to ${Math.round(Math.max(...pauses))} ms`,
  );
  expect(pauses.length).toBe(rounds);
  expect(load.passes).toBeGreaterThan(0);
  expect((await readFile(errorsPath, 'utf8')).trim()).toBe('0');
  expect(await mountAt(pod.targetPath)).toEqual({ name, options });

  dropCaches();
  const before = await digests(pod.targetPath);
  await csi.unpublish(pod);
  await checkFilesystem(driver, pod.volumeId);
  dropCaches();
  await csi.publish(pod);
  expect(await digests(pod.targetPath)).toEqual(before);
  for (const file of files) await fio(pod.targetPath, file, ['--rw=read']);
  await csi.removePod(pod);
  expect(await sandbox.leftovers()).toEqual([]);
}

/** I/O of the device ends again. The daemon looks for its server every 1, 2, 4, 8 and then 16 s. */
async function progress(device: string): Promise<void> {
  const path = `/sys/block/${device}/stat`;
  const before = await readFile(path, 'utf8');
  const ended = (stat: string): string[] => [0, 4].map((at) => stat.trim().split(/ +/)[at] ?? '');
  await eventually('I/O goes on', 60_000, async () => {
    return ended(await readFile(path, 'utf8')).join() !== ended(before).join();
  });
}

/** fio, pass after pass over two files at a time: each pass writes all blocks in random order and verifies them. */
class Load {
  passes = 0;
  ended = false;
  readonly #folder: string;
  #stopped = false;

  constructor(folder: string) {
    this.#folder = folder;
  }

  stop(): void {
    this.#stopped = true;
  }

  async run(): Promise<void> {
    try {
      while (!this.#stopped) {
        const more = ['--rw=randwrite', `--randseed=${seed + this.passes}`];
        await Promise.all(files.map((file) => fio(this.#folder, file, more)));
        this.passes++;
      }
    } finally {
      this.ended = true;
    }
  }
}

async function fio(
  folder: string,
  file: (typeof files)[number],
  more: readonly string[],
): Promise<void> {
  const shape = {
    small: ['--bs=4k', '--size=6m'],
    large: ['--bs=64k', '--size=48m', '--fsync=16'],
  };
  const args = [
    ...[`--name=${file}`, `--filename=${join(folder, file)}`, '--direct=1', '--ioengine=libaio'],
    ...['--iodepth=8', '--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--minimal'],
    ...[...shape[file], ...more],
  ];
  await runCommand('fio', args, { timeoutMs: 150_000 });
}

async function mountAt(path: string): Promise<{ name: string; options: string }> {
  const mount = (await listMounts()).findLast(({ mountpoint }) => mountpoint === path);
  const text = await readFile('/proc/self/mounts', 'utf8');
  const line = text.split('\n').findLast((each) => each.split(' ')[1] === path);
  expect(mount).toBeDefined();
  return { name: basename(line?.split(' ')[0] ?? ''), options: line?.split(' ')[3] ?? '' };
}

async function digests(folder: string): Promise<string[]> {
  return await Promise.all(
    files.map(async (file) =>
      createHash('sha256')
        .update(await readFile(join(folder, file)))
        .digest('hex'),
    ),
  );
}

/** The volume as it is without the attacher, looked at by e2fsck, which finds nothing to repair. */
async function checkFilesystem(driver: RealDriver, volumeId: string): Promise<void> {
  const exportName = volumeId.slice(volumeId.indexOf('.') + 1);
  const image = join(driver.sandbox.path, 'image');
  await runCommand('nbdcopy', [driver.uri(exportName), image], { timeoutMs: 30_000 });
  const { stdout } = await runCommand('e2fsck', ['-f', '-n', image], { timeoutMs: 30_000 });
  expect(stdout).not.toMatch(/recover|fix|error/i);
  await rm(image);
}
