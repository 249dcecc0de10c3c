/** What a sandbox uses of the kernel that belongs to no namespace: control groups and loop devices. */
import { mkdir, readdir, rmdir, stat } from 'node:fs/promises';
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
 * Loop devices whose file is mounted nowhere any more, in any namespace: only a file that is a mount point itself, and
 * whose file system lived in a process that was killed (FUSE), goes on existing like that, for the loop device alone.
 */
export async function detachOrphanedLoops(): Promise<void> {
  const printed = await run(['losetup', '--list', '--json', '--output', 'NAME,BACK-FILE']);
  for (const name of orphanedLoops(printed)) {
    await run(['losetup', '--detach', name], { acceptFailure: true });
  }
}

/** Their names, from what `losetup --list --json` printed: nothing, when there is no loop device. */
export function orphanedLoops(printed: string): string[] {
  if (printed.trim() === '') return [];
  const { loopdevices } = JSON.parse(printed) as {
    loopdevices: { name: string; 'back-file': string | null }[];
  };
  // A mount point that has been unmounted has lost the way to it.
  return loopdevices.flatMap(({ name, 'back-file': file }) => (file === '/' ? [name] : []));
}
