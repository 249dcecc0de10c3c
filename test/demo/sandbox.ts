/**
 * The demo's temp folder, marked so that a later run finds it when this one is killed and cannot clean up: it then
 * says what was left, and removes it.
 */
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import { identifyProcess } from '../../src/base/processes.ts';
import { createSandbox, removeLeftovers, type Sandbox } from '../../scripts/leftovers.ts';

const prefix = 'vdcsi-demo-';
const ownerFile = 'owner';
const isLinux = process.platform === 'linux';

export async function createDemoSandbox(): Promise<Sandbox> {
  const sandbox = createSandbox(prefix);
  const identity = isLinux ? await identifyProcess(process.pid) : null;
  const owner = `${process.pid} ${identity?.startTime ?? ''}`;
  writeFileSync(join(sandbox.folder, ownerFile), owner);
  return sandbox;
}

/** Removes what demos left that were killed, and says what it was. Those that still run are let alone. */
export async function removeEarlierDemos(): Promise<string[]> {
  if (!isLinux) return [];
  const found: string[] = [];
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(prefix))) {
    const folder = join(tmpdir(), name);
    const ownerPath = join(folder, ownerFile);
    if (!existsSync(ownerPath)) continue;
    const [pid, startTime] = readFileSync(ownerPath, 'utf8').split(' ');
    const running = await identifyProcess(Number(pid));
    if (running !== null && running.startTime === startTime) continue;
    found.push(`folder ${folder}`, ...(await removeLeftovers({ folder, environment: {} })));
  }
  return found.filter((line) => !line.startsWith('temporary file '));
}

/** Kills the programs that the story runs just now, but not the driver, and takes away the mounts that pods had. */
export async function endPrograms(
  { folder }: Sandbox,
  driverPids: readonly number[],
): Promise<void> {
  if (!isLinux || !existsSync(folder)) return;
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8');
  for (const pid of children.split(' ').filter(Boolean).map(Number)) {
    if (driverPids.includes(pid)) continue;
    try {
      process.kill(-pid, 'SIGKILL'); // each leads a group of its own
    } catch {
      // It has ended meanwhile.
    }
  }
  for (const parent of ['pods', 'staging'].map((name) => join(folder, name))) {
    for (const name of existsSync(parent) ? readdirSync(parent) : []) {
      const path = join(parent, name);
      // What is busy or not mounted is left to closeSandbox.
      await runCommand('umount', [path], { timeoutMs: 10_000 }).catch(() => undefined);
    }
  }
}

/** Removes the demo's own files and looks for anything else; resolves with what it found, and then removed. */
export async function closeSandbox(sandbox: Sandbox, graceMs?: number): Promise<string[]> {
  if (!existsSync(sandbox.folder)) return [];
  if (!isLinux) {
    rmSync(sandbox.folder, { recursive: true, force: true });
    return [];
  }
  const left = await removeLeftovers(sandbox, graceMs);
  return left.filter((line) => !line.startsWith('temporary file '));
}
