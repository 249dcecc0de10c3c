/** What a sandbox uses of the kernel that belongs to no namespace: control groups and loop devices. */
import { mkdir, readFile, readdir, readlink, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { delay } from '../support/waiting.ts';
import { run } from './commands.ts';

const root = '/sys/fs/cgroup';
const removalLimitMs = 10_000;

/** Version 1 has a hierarchy for each controller, version 2 has one. */
async function hierarchies(): Promise<string[]> {
  const unified = await stat(join(root, 'cgroup.controllers')).catch(() => undefined);
  if (unified !== undefined) return [root];
  const entries = await readdir(root, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(root, name));
}

export async function makeCgroups(name: string): Promise<void> {
  for (const hierarchy of await hierarchies())
    await mkdir(join(hierarchy, name), { recursive: true });
}

/** With all below them. Their processes have been killed, and may take a moment to be gone. */
export async function removeCgroups(name: string): Promise<void> {
  const deadline = performance.now() + removalLimitMs;
  for (const hierarchy of await hierarchies()) {
    for (;;) {
      try {
        await removeTree(join(hierarchy, name));
        break;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await delay(100);
      }
    }
  }
}

async function removeTree(folder: string): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => undefined);
  if (entries === undefined) return;
  for (const entry of entries) if (entry.isDirectory()) await removeTree(join(folder, entry.name));
  await rmdir(folder);
}

/**
 * Loop devices on a file of a file system that is mounted nowhere any more, in any namespace: only a file system that
 * lives in a process (FUSE) and whose process was killed goes on existing like that, and only for the loop device.
 */
export async function detachOrphanedLoops(): Promise<void> {
  const printed = await run(['losetup', '--list', '--json', '--output', 'NAME,BACK-MAJ:MIN']);
  for (const name of orphanedLoops(printed, await allMountInfo())) {
    await run(['losetup', '--detach', name], { acceptFailure: true });
  }
}

/** Their names, from what `losetup --list --json` printed (nothing, when there is none), and mountinfo files one after the other. */
export function orphanedLoops(printed: string, mountInfo: string): string[] {
  if (printed.trim() === '') return [];
  const { loopdevices } = JSON.parse(printed) as {
    loopdevices: { name: string; 'back-maj:min': string | null }[];
  };
  const mounted = new Set(mountInfo.split('\n').map((line) => line.split(' ')[2]));
  return loopdevices.flatMap(({ name, 'back-maj:min': raw }) => {
    const device = (raw ?? '').replaceAll(' ', '');
    // File systems without a device of their own have the major number 0.
    return device.startsWith('0:') && !mounted.has(device) ? [name] : [];
  });
}

async function allMountInfo(): Promise<string> {
  const namespaces = new Map<string, string>();
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const namespace = await readlink(`/proc/${pid}/ns/mnt`).catch(() => undefined);
    if (namespace !== undefined && !namespaces.has(namespace)) namespaces.set(namespace, pid);
  }
  const files = [...namespaces.values()].map((pid) =>
    readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(() => ''),
  );
  return (await Promise.all(files)).join('\n');
}
