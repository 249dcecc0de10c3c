/**
 * Finds what a command leaves behind, precisely: the command gets a temp folder of its own ($TMPDIR) and a mark in
 * its environment, which every process that it starts inherits. Whatever carries the mark or lies in the folder
 * after it ended was left behind: processes, mounts, loop devices, files. Others on the machine are never touched.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Sandbox {
  readonly folder: string;
  /** For the command's environment. */
  readonly environment: Readonly<Record<string, string>>;
}

const markName = 'VDCSI_SANDBOX';

export function createSandbox(prefix = 'vdcsi-'): Sandbox {
  const folder = mkdtempSync(join(tmpdir(), prefix));
  return { folder, environment: { TMPDIR: folder, [markName]: folder } };
}

/**
 * Says what is there, one line each, then removes all of it, and the folder. Processes that are about to end have
 * `graceMs` for it.
 */
export async function removeLeftovers(sandbox: Sandbox, graceMs = 3000): Promise<string[]> {
  const deadline = performance.now() + graceMs;
  while (processesOf(sandbox).length > 0 && performance.now() < deadline) await delay(50);

  const processes = processesOf(sandbox);
  const loops = loopsOf(sandbox);
  const mounts = mountsOf(sandbox);
  const files = readdirSync(sandbox.folder);
  for (const { pid } of processes) attempt(() => process.kill(pid, 'SIGKILL'));
  // Twice: a device under a mount is free only afterwards, and a mount may be of a device.
  for (let round = 0; round < 2; round++) {
    for (const path of mountsOf(sandbox)) attempt(() => run('umount', ['--lazy', path]));
    for (const device of loopsOf(sandbox, loops))
      attempt(() => run('losetup', ['--detach', device]));
    await delay(processes.length + loops.length + mounts.length > 0 ? 200 : 0);
  }
  attempt(() => {
    rmSync(sandbox.folder, { recursive: true, force: true });
  });
  return [
    ...processes.map(({ pid, command }) => `process ${pid}: ${command}`),
    ...loops.map((device) => `loop device ${device}`),
    ...mounts.map((path) => `mount ${path}`),
    ...files.map((name) => `temporary file ${name}`),
  ];
}

interface FoundProcess {
  readonly pid: number;
  readonly command: string;
}

function processesOf({ folder }: Sandbox): FoundProcess[] {
  return readdirSync('/proc').flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) return [];
    const command = readProc(name, 'cmdline').replaceAll('\0', ' ').trim();
    // Zombies have no command line: they have ended.
    if (command === '') return [];
    const marked = readProc(name, 'environ').split('\0').includes(`${markName}=${folder}`);
    return marked || command.includes(folder) ? [{ pid, command: command.slice(0, 200) }] : [];
  });
}

/** Empty when the process is gone, or another user's. */
function readProc(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

/** Innermost first. */
function mountsOf({ folder }: Sandbox): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(folder))
    .flatMap((line) => line.split(' ')[4] ?? [])
    .reverse();
}

/** `known` are devices of the sandbox whose file's mount may be gone by now: the kernel then calls the file "/". */
function loopsOf({ folder }: Sandbox, known: readonly string[] = []): string[] {
  return readdirSync('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .filter((name) => {
      try {
        const file = readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim();
        return file.includes(folder) || (file === '/' && known.includes(`/dev/${name}`));
      } catch {
        return false;
      }
    })
    .map((name) => `/dev/${name}`);
}

function run(command: string, args: readonly string[]): void {
  execFileSync(command, args, { timeout: 10_000, stdio: 'ignore' });
}

/** Cleaning goes on whatever fails: what is left has been reported. */
function attempt(action: () => void): void {
  try {
    action();
  } catch {
    // Gone meanwhile, or not ours to remove.
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
