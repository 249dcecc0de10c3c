/**
 * Runs in a guest whose kernel lets root grow a mounted ext4 (CAP_SYS_RESOURCE): the real roles attach a volume through
 * FUSE and loop, a program writes to it without a pause, and NodeExpandVolume makes it larger under that program. With
 * the same capability the roles protect themselves against a lack of memory, which replaces their processes at the start.
 */
import { readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import { findProcesses } from '../../src/base/processes.ts';
import { loadModule } from './guest-modules.ts';
import { memorySafetyOf, type MemorySafety } from './io-flushers.ts';
import { eventually, MiB, RealDriver } from './real-driver.ts';
import { RealWriter } from './real-writer.ts';
import { report } from './uml.ts';

export type GrowReport =
  | { failed: true }
  | { mounted: number }
  /** Of the roles, and of the daemons under the devices. */
  | { safety: Record<string, MemorySafety[]> }
  /** What df shows, and errors that ext4 met. */
  | { grown: number; errors: string }
  | { leftovers: string[]; e2fsck: string };

const tell = (what: GrowReport): void => {
  report(what);
};
const supervised = ['volumedriver', 'attacher', 'plugin'] as const;
const sizes = JSON.parse(process.argv[2] ?? '') as number[];

for (const name of ['fs/fuse/fuse.ko', 'drivers/block/loop.ko']) loadModule(name);
const driver = await RealDriver.open({
  roles: ['all'],
  volumedriverFlags: ['--map-memory', '16MiB', '--read-cache', '16MiB', '--reserve', '8MiB'],
});
const { csi, sandbox } = driver;
const pod = await csi.startPod(sandbox.path, 'pod', (sizes[0] ?? 0) * MiB);
const target = pod.targetPath;
tell({ mounted: await sizeOf(target) });
tell({ safety: await memorySafety() });
const writer = new RealWriter(sandbox, join(target, 'records'));
await writer.progress();
for (const size of sizes.slice(1)) {
  await csi.expand(pod, size * MiB);
  await writer.progress();
  tell({ grown: await sizeOf(target), errors: errorsOf(target) });
}
await writer.finish();
await csi.unpublish(pod);
const leftovers = await sandbox.leftovers();
const image = join(sandbox.path, 'image');
const exportName = pod.volumeId.slice(pod.volumeId.indexOf('.') + 1);
await runCommand('nbdcopy', [driver.uri(exportName), image], { timeoutMs: 60_000 });
const { stdout } = await runCommand('e2fsck', ['-f', '-n', image], { timeoutMs: 60_000 });
// The replaced processes still hold what tells them that their supervisor is gone.
await driver.kill('all', { stay: true });
await eventually('the roles end with their supervisor', 60_000, async () => {
  const roles = await Promise.all(supervised.map((role) => driver.processes(role)));
  return roles.flat().length === 0;
});
tell({ leftovers, e2fsck: stdout });
await driver.close();

async function memorySafety(): Promise<Record<string, MemorySafety[]>> {
  const daemons = await findProcesses('qemu-storage-daemon', () => true);
  const safety: Record<string, MemorySafety[]> = {
    daemons: daemons.map(({ pid }) => memorySafetyOf(pid)),
  };
  for (const role of supervised) {
    safety[role] = (await driver.processes(role)).map(({ pid }) => memorySafetyOf(pid));
  }
  return safety;
}

/** What df shows, in bytes. */
async function sizeOf(path: string): Promise<number> {
  const { blocks, bsize } = await statfs(path);
  return blocks * bsize;
}

function errorsOf(path: string): string {
  const lines = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const device = lines.map((line) => line.split(' ')).findLast((fields) => fields[1] === path)?.[0];
  return readFileSync(`/sys/fs/ext4/${basename(device ?? '')}/errors_count`, 'utf8').trim();
}
