/** Programs that a benchmark starts: each with a log, a wait with an end for its socket, and a sure stop. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const readyMs = 20_000;
const stopMs = 40_000;
/** Ticks of /proc/PID/stat a second: USER_HZ, the same on every Linux that Node runs on. */
const ticksPerSecond = 100;

export const run = promisify(execFile);

export interface Daemon {
  readonly pid: number;
  /** SIGTERM unless another is given; SIGKILL when that does not end it in time. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Resolves when the socket accepts; the log's end is in the error when it doesn't in time. */
export async function startDaemon(
  command: readonly string[],
  options: { socket: string; log: string; env?: NodeJS.ProcessEnv },
): Promise<Daemon> {
  const [program = '', ...args] = command;
  const log = openSync(options.log, 'a');
  const child = spawn(program, args, {
    stdio: ['ignore', log, log],
    env: { ...process.env, ...options.env },
  });
  closeSync(log);
  const { pid } = child;
  const failed = new Promise<never>((_, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => {
      reject(new Error(`${program} ended with ${code ?? 'a signal'}: ${tail(options.log)}`));
    });
  });
  failed.catch(() => undefined);
  const daemon = {
    pid: pid ?? 0,
    stop: (signal: NodeJS.Signals = 'SIGTERM') => stop(child, signal),
  };
  try {
    await Promise.race([accepting(options.socket), failed]);
  } catch (error) {
    await daemon.stop();
    throw error;
  }
  return daemon;
}

async function accepting(path: string): Promise<void> {
  const endMs = performance.now() + readyMs;
  while (performance.now() < endMs) {
    if (await connects(path)) return;
    await sleep(20);
  }
  throw new Error(`nobody listens on ${path} after ${readyMs / 1000} s`);
}

function connects(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

async function stop(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve();
    });
  });
  child.kill(signal);
  const late = setTimeout(() => child.kill('SIGKILL'), stopMs);
  await ended;
  clearTimeout(late);
}

function tail(path: string): string {
  return readFileSync(path, 'utf8').trim().split('\n').slice(-3).join(' | ');
}

/** User and system time that a process has used, in seconds; resolution 10 ms. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

export function rssBytes(pid: number): number {
  const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(match?.[1] ?? 0) * 1024;
}

/** The processes that a supervisor has started, with their command lines. */
export function childrenOf(pid: number): { pid: number; command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => {
      try {
        const status = readFileSync(`/proc/${name}/status`, 'utf8');
        const parent = Number(/PPid:\s+(\d+)/.exec(status)?.[1] ?? 0);
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ');
        return { pid: Number(name), parent, command };
      } catch {
        return { pid: 0, parent: -1, command: '' }; // it ended meanwhile
      }
    })
    .filter(({ parent }) => parent === pid);
}
