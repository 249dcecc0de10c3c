/**
 * `volumedriver-csi all` under a mounted volume: roles that die are started again, and a supervisor that is killed
 * leaves the place to the next one, whose roles take over.
 */
import { expect } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually, MiB, RealDriver, type Role } from '../support/real-driver.ts';
import { RealWriter } from '../support/real-writer.ts';
import { testRequires } from '../support/requires.ts';

const roles: readonly Role[] = ['volumedriver', 'attacher', 'plugin'];
const limitMs = 150_000;

testRequires(
  ['root', 'linux', 'fuse', 'loop', 'tool:qemu-storage-daemon', 'tool:mkfs.ext4'],
  'a mounted volume lives through the death of the supervisor and of what it supervises',
  async () => {
    const driver = await RealDriver.open({ roles: ['all'], volumedriverFlags: ['--grace', '1'] });
    try {
      await supervise(driver);
    } catch (error) {
      throw new Error(`the driver said: ${driver.log()}`, { cause: error });
    } finally {
      await driver.close();
    }
  },
  limitMs,
);

async function supervise(driver: RealDriver): Promise<void> {
  const { csi, sandbox } = driver;
  const pod = await csi.startPod(sandbox.path, 'pod', 64 * MiB);
  const writer = new RealWriter(sandbox, join(pod.targetPath, 'records'));
  await writer.progress();
  for (const role of roles) {
    for (const { pid } of await driver.processes(role)) process.kill(pid, 'SIGKILL');
  }
  await rolesRun(driver);
  await writer.progress();

  await driver.kill('all');
  await rolesRun(driver);
  await writer.progress();

  await writer.finish();
  await csi.removePod(pod);
  expect(await sandbox.leftovers()).toEqual([]);
}

/** One process of each role, and each a child of the present supervisor. */
async function rolesRun(driver: RealDriver): Promise<void> {
  await eventually('every role runs under its supervisor', 60_000, async () => {
    const found = await Promise.all(roles.map((role) => driver.processes(role)));
    const parents = found.map((processes) => processes.map(({ pid }) => parentOf(pid)));
    return parents.every(([parent, ...more]) => parent === driver.pid('all') && more.length === 0);
  });
  await driver.ready();
}

function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    return 0; // it ended meanwhile
  }
}
