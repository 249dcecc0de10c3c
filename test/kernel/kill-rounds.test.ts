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
import { deviceProgress, FioLoad, runFio } from '../support/fio-load.ts';
import { countFrom, dropCaches, MiB, RealDriver, tell } from '../support/real-driver.ts';
import { testRequires } from '../support/requires.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const rounds = countFrom('ROUNDS', 25);
const seed = countFrom('SEED', Date.now() % 2 ** 31);
const files = [
  { name: 'small', shape: ['--bs=4k', '--size=6m'] },
  { name: 'large', shape: ['--bs=64k', '--size=48m', '--fsync=16'] },
];

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

  const load = new FioLoad(pod.targetPath, files, seed);
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
    await deviceProgress(name);
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
  for (const file of files) await runFio(pod.targetPath, file, ['--rw=read']);
  await csi.removePod(pod);
  expect(await sandbox.leftovers()).toEqual([]);
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
    files.map(async ({ name }) =>
      createHash('sha256')
        .update(await readFile(join(folder, name)))
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
