/**
 * The product with kernel devices, all in one small guest: volumedriver, attacher and plugin as real processes, data and
 * backend on the guest's disk. KERNEL_ROUNDS=N kills the volumedriver so often, MEMORY_TIMES=N dirties so many times
 * the guest's memory.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../src/attacher/attacher-world-contract.ts';
import { runCommand } from '../../src/base/command.ts';
import { systemClock } from '../../src/base/clock.ts';
import { boundDevices } from '../support/attach-kernel.ts';
import { deviceProgress, FioLoad } from '../support/fio-load.ts';
import { loadModule } from '../support/guest-modules.ts';
import { tellHost } from '../support/guest-tell.ts';
import { countFrom, dropCaches, MiB, RealDriver } from '../support/real-driver.ts';
import type { Pod } from '../support/real-csi.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { guestDiskPath } from '../support/uml.ts';

const rounds = countFrom('KERNEL_ROUNDS', 20);
const memoryTimes = countFrom('MEMORY_TIMES', 3);
const attachCount = countFrom('ATTACHES', 10);
const seed = countFrom('SEED', 1);
const files = [
  { name: 'small', shape: ['--bs=4k', '--size=2m'] },
  { name: 'large', shape: ['--bs=64k', '--size=16m', '--fsync=16'] },
];

loadModule('drivers/block/nbd.ko', 'nbds_max=4 max_part=0');

// Of the roles, which start often in a slow machine.
process.env['NODE_COMPILE_CACHE'] = join(guestDiskPath, 'compiled');

let driver: RealDriver;

beforeAll(async () => {
  driver = await RealDriver.open({
    roles: ['volumedriver', 'attacher', 'plugin'],
    dataDirectory: join(guestDiskPath, 'data'),
    backendDirectory: join(guestDiskPath, 'store'),
    volumedriverFlags: ['--map-memory', '16MiB', '--read-cache', '16MiB', '--reserve', '8MiB'],
    attacherFlags: ['--strategy', 'kernel'],
  });
  await run('dmesg', ['--clear']);
}, 120_000);
afterAll(async () => {
  await driver.close();
}, 60_000);

test('attaches and detaches kernel devices', async () => {
  const { id: volumeId } = await driver.volumes.createVolume({
    name: 'timed',
    sizeBytes: 64 * MiB,
  });
  const request = { volumeId, uri: driver.uri(volumeId), readOnly: false };
  const attachMs: number[] = [];
  const detachMs: number[] = [];
  for (let round = 0; round < attachCount; round++) {
    const startedMs = performance.now();
    const device = await driver.devices.attach(request);
    attachMs.push(performance.now() - startedMs);
    expect(device).toMatchObject({ strategy: 'kernel', state: 'attached', sizeBytes: 64 * MiB });
    const attachedMs = performance.now();
    await driver.devices.detach(volumeId);
    detachMs.push(performance.now() - attachedMs);
  }
  tellHost(`kernel device: attach ${summary(attachMs)}, detach ${summary(detachMs)}`);
  await driver.volumes.removeVolume(volumeId, 'strict');
  expect(await boundDevices()).toEqual([]);
});

test(
  `an ext4 lives through ${rounds} kills of the volumedriver under fio`,
  async () => {
    const pod = await driver.csi.startPod(driver.sandbox.path, 'killed', 128 * MiB);
    const device = deviceOf(pod);
    expect(device).toMatch(/^nbd\d+$/);
    const load = new FioLoad(pod.targetPath, files, seed);
    const running = load.run();
    // Seen where it is awaited, below.
    running.catch(() => undefined);
    const { pausesMs, healsMs } = await killUnder(load, device);
    load.stop();
    await running;
    tellHost(
      `${pausesMs.length} kills in ${load.passes} passes of fio: I/O paused for ${summary(pausesMs)}, ` +
        `of which ${summary(healsMs)} with the volumedriver back`,
    );
    expect(pausesMs.length).toBe(rounds);
    expect(load.passes).toBeGreaterThan(0);
    expect(readFileSync(`/sys/fs/ext4/${device}/errors_count`, 'utf8').trim()).toBe('0');
    await expectQuietKernel();
    await driver.csi.unpublish(pod);
    await checkFilesystem(pod);
    await driver.csi.deleteVolume(pod);
    expect(await boundDevices()).toEqual([]);
  },
  60_000 + rounds * 20_000,
);

async function killUnder(
  load: FioLoad,
  device: string,
): Promise<{ pausesMs: number[]; healsMs: number[] }> {
  const random = new SeededRandom(seed);
  const pausesMs: number[] = [];
  const healsMs: number[] = [];
  for (let round = 0; round < rounds && !load.ended; round++) {
    await systemClock.sleep(100 + random.integer(500));
    const killedMs = performance.now();
    await driver.kill('volumedriver');
    // Verifying must ask the volumedriver, not the page cache.
    if (random.chance(0.5)) dropCaches();
    await driver.ready();
    const readyMs = performance.now();
    await deviceProgress(device);
    pausesMs.push(performance.now() - killedMs);
    healsMs.push(performance.now() - readyMs);
  }
  return { pausesMs, healsMs };
}

test(`a device takes ${memoryTimes} times the memory of its machine`, async () => {
  const totalKiB = Number(/MemTotal: +(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]);
  const megabytes = Math.ceil((memoryTimes * totalKiB) / 1024);
  const pod = await driver.csi.startPod(driver.sandbox.path, 'dirty', (megabytes + 128) * MiB);
  const startedMs = performance.now();
  const file = join(pod.targetPath, 'file');
  const write = `yes | dd of=${file} bs=1M count=${megabytes} iflag=fullblock conv=fsync`;
  await runCommand('sh', ['-c', write], { timeoutMs: 400_000 });
  const seconds = (performance.now() - startedMs) / 1000;
  tellHost(
    `${megabytes} MiB dirtied on a device of a machine with ${Math.round(totalKiB / 1024)} MiB ` +
      `in ${seconds.toFixed(1)} s, its volumedriver in the same machine`,
  );
  await expectQuietKernel();
  await driver.csi.removePod(pod);
  expect(await boundDevices()).toEqual([]);
}, 500_000);

/** The device under a pod's filesystem, such as nbd0. */
function deviceOf(pod: Pod): string {
  const lines = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const mount = lines
    .map((line) => line.split(' '))
    .findLast(([, path]) => path === pod.targetPath);
  return (mount?.[0] ?? '').replace('/dev/', '');
}

async function expectQuietKernel(): Promise<void> {
  const bad = /I\/O error|EXT4-fs (error|warning)|blocked for more than|Out of memory|stall/;
  const lines = (await run('dmesg', [])).split('\n').filter((line) => bad.test(line));
  expect(lines).toEqual([]);
}

/** The volume as it is without a device, looked at by e2fsck, which finds nothing to repair. */
async function checkFilesystem({ volumeId }: Pod): Promise<void> {
  const exportName = volumeId.slice(volumeId.indexOf('.') + 1);
  const image = join(guestDiskPath, 'image');
  await runCommand('nbdcopy', [driver.uri(exportName), image], { timeoutMs: 60_000 });
  expect(await run('e2fsck', ['-f', '-n', image])).not.toMatch(/recover|fix|error/i);
}

/** Median and worst. */
function summary(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  return `${Math.round(median)} ms (worst ${Math.round(sorted.at(-1) ?? 0)} ms)`;
}
