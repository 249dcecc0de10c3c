/**
 * The qemu-storage-daemon of one volume: a process in a session of its own that shows the export as a file and
 * outlives us. It is known by its arguments, which name the volume's folder, so that one whose pid was never
 * recorded is found as well. `--daemonize` would write the pid only after the connection was made, when a stuck
 * one cannot be told any more; here the pid is known at once.
 */
import { open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { toVolumeError, VolumeError } from '../../volumes/errors.ts';
import { readFileIfPresent } from '../../base/files.ts';
import { mountsOn } from '../mounts.ts';
import {
  findProcesses,
  identifyProcess,
  isAlive,
  signalProcess,
  startDetached,
  type ProcessIdentity,
} from '../../base/processes.ts';
import { waitUntil } from '../waiting.ts';
import { daemonArguments } from './qemu-options.ts';

/** The files of one volume. */
export interface FuseFolder {
  readonly path: string;
  /** Becomes the volume's bytes once the daemon has mounted itself there. */
  readonly mountpoint: string;
  readonly qmpSocketPath: string;
  readonly pidFilePath: string;
  readonly logPath: string;
}

export function fuseFolder(parent: string, key: string): FuseFolder {
  const path = join(parent, key);
  return {
    path,
    mountpoint: join(path, 'volume'),
    qmpSocketPath: join(path, 'qmp'),
    pidFilePath: join(path, 'pid'),
    logPath: join(path, 'log'),
  };
}

export interface StartRequest {
  readonly program: string;
  readonly uri: string;
  readonly readOnly: boolean;
  readonly reconnectDelaySeconds: number;
}

/** Starts the daemon and returns at once; awaitMounted tells how that went. */
export async function startDaemon(
  folder: FuseFolder,
  request: StartRequest,
): Promise<ProcessIdentity> {
  const log = await open(folder.logPath, 'a', 0o600);
  try {
    const pid = await startDetached(request.program, daemonArguments({ ...folder, ...request }), {
      logFd: log.fd,
    }).catch((cause: unknown) => {
      throw toVolumeError(cause, `start ${request.program}`, 'NOT_CAPABLE');
    });
    const identity = await identifyProcess(pid);
    if (identity === null) throw await startFailure(folder);
    return identity;
  } finally {
    await log.close();
  }
}

/** Resolves with the filesystem's number once the file shows the volume. Rejects with what the daemon said. */
export async function awaitMounted(
  folder: FuseFolder,
  daemon: ProcessIdentity,
  wait: { clock: Clock; timeoutMs: number },
): Promise<string> {
  let deviceNumber: string | undefined;
  await waitUntil(wait.clock, { timeoutMs: wait.timeoutMs, everyMs: 10 }, async () => {
    deviceNumber = (await mountsOn(folder.mountpoint)).at(-1)?.deviceNumber;
    return deviceNumber !== undefined || !(await isAlive(daemon));
  });
  if (deviceNumber !== undefined) return deviceNumber;
  if (!(await isAlive(daemon))) throw await startFailure(folder);
  const why = `it was not ready after ${wait.timeoutMs} ms`;
  throw new VolumeError('UNAVAILABLE', `start the volume's FUSE daemon: ${why}`);
}

async function startFailure(folder: FuseFolder): Promise<VolumeError> {
  const said = (await lastWords(folder)) ?? 'it ended at once';
  return new VolumeError('UNAVAILABLE', `start the volume's FUSE daemon: ${said}`);
}

/** The last line that the daemon wrote. */
export async function lastWords(folder: FuseFolder): Promise<string | null> {
  const text = await readFileIfPresent(folder.logPath);
  return text?.trim().split('\n').at(-1)?.slice(0, 500) ?? null;
}

/** All live daemons of this folder, recorded or not. */
export async function findDaemons(
  folder: FuseFolder,
  program: string,
  recorded: ProcessIdentity | null,
): Promise<ProcessIdentity[]> {
  const found: ProcessIdentity[] = await findProcesses(basename(program), (args) =>
    args.includes(folder.pidFilePath),
  );
  if (recorded === null || found.some((daemon) => daemon.pid === recorded.pid)) return found;
  // A start time can't be mistaken: what is alive with it is the daemon, whatever it calls itself.
  return (await isAlive(recorded)) ? [...found, recorded] : found;
}

/** The folders under `parent` that have a live daemon. */
export async function foldersWithDaemons(parent: string, program: string): Promise<string[]> {
  const prefix = `${parent}/`;
  const folders: string[] = [];
  const daemons = await findProcesses(basename(program), (args) =>
    args.some((arg) => arg.startsWith(prefix)),
  );
  for (const { args } of daemons) {
    const path = args.find((arg) => arg.startsWith(prefix));
    if (path !== undefined) folders.push(path.slice(prefix.length).split('/')[0] ?? '');
  }
  return folders;
}

/** Ends the daemon, politely first unless `abort`. True when it is gone. */
export async function stopDaemon(
  daemon: ProcessIdentity,
  options: { clock: Clock; abort: boolean; politeMs: number },
): Promise<boolean> {
  const gone = async (): Promise<boolean> => !(await isAlive(daemon));
  if (!options.abort) {
    await signalProcess(daemon, 'SIGTERM');
    if (await waitUntil(options.clock, { timeoutMs: options.politeMs, everyMs: 10 }, gone))
      return true;
  }
  await signalProcess(daemon, 'SIGKILL');
  return await waitUntil(options.clock, { timeoutMs: 3000, everyMs: 10 }, gone);
}
