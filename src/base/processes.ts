/**
 * Processes that outlive us, told apart by pid and start time (proc(5), /proc/PID/stat field 22): a pid alone may
 * belong to somebody else by now and is never signalled. A zombie counts as gone: nothing of it runs.
 */
import { spawn } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { hasErrno } from './errno.ts';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot, in decimal. */
  readonly startTime: string;
}

const procFolder = '/proc';

/**
 * Starts a program that shall outlive us: in a session of its own, with both outputs going to the open file `logFd`
 * and LC_ALL=C. Resolves with its pid once it runs; rejects when it cannot be started.
 */
export async function startDetached(
  program: string,
  args: readonly string[],
  options: { logFd: number },
): Promise<number> {
  const child = spawn(program, args, {
    detached: true,
    stdio: ['ignore', options.logFd, options.logFd],
    env: { ...process.env, LC_ALL: 'C' },
    cwd: '/',
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
  child.unref();
  if (child.pid === undefined) throw new Error(`${program} has no pid`);
  return child.pid;
}

/** Reads state and start time out of /proc/PID/stat; null when it is malformed. */
export function parseStat(text: string): { state: string; startTime: string } | null {
  // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .trim()
    .split(' ');
  const state = fields[0];
  const startTime = fields[19];
  if (!text.includes(')') || state === undefined || startTime === undefined) return null;
  return /^[A-Za-z]$/.test(state) && /^[0-9]+$/.test(startTime) ? { state, startTime } : null;
}

/** The identity of a running process; null when there is none with this pid. */
export async function identifyProcess(pid: number): Promise<ProcessIdentity | null> {
  const text = await readProcFile(pid, 'stat');
  const stat = text === null ? null : parseStat(text);
  if (stat === null || stat.state === 'Z' || stat.state === 'X') return null;
  return { pid, startTime: stat.startTime };
}

export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  const now = await identifyProcess(identity.pid);
  return now !== null && now.startTime === identity.startTime;
}

/** Signals exactly this process; false when it is gone. */
export async function signalProcess(
  identity: ProcessIdentity,
  signal: 'SIGTERM' | 'SIGKILL',
): Promise<boolean> {
  if (!(await isAlive(identity))) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ESRCH')) return false;
    throw error;
  }
}

export interface FoundProcess extends ProcessIdentity {
  readonly args: readonly string[];
}

/**
 * All processes whose program's name (the kernel keeps 15 characters) and arguments match. The name is looked at
 * first: reading the arguments of a foreign process that is stuck can block.
 */
export async function findProcesses(
  program: string,
  matches: (args: readonly string[]) => boolean,
): Promise<FoundProcess[]> {
  const found: FoundProcess[] = [];
  for (const entry of await readdir(procFolder)) {
    if (!/^[1-9][0-9]*$/.test(entry)) continue;
    const pid = Number(entry);
    if ((await readProcFile(pid, 'comm'))?.trimEnd() !== program.slice(0, 15)) continue;
    const identity = await identifyProcess(pid);
    const args = (await readProcFile(pid, 'cmdline'))?.split('\0').slice(0, -1);
    if (identity !== null && args !== undefined && matches(args)) found.push({ ...identity, args });
  }
  return found;
}

async function readProcFile(pid: number, name: string): Promise<string | null> {
  try {
    return await readFile(`${procFolder}/${pid}/${name}`, 'utf8');
  } catch (error) {
    if (hasErrno(error, 'ENOENT') || hasErrno(error, 'ESRCH')) return null;
    throw error;
  }
}
