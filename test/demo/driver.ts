/**
 * The driver under the story. Each of its processes has a session of its own, so that Ctrl-C reaches the story alone,
 * which then stops them in good order.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { CsiClient, nodeId } from './csi.ts';

const root = resolve(import.meta.dirname, '../..');
const readyMs = 30_000;
const stopMs = 30_000;
const pollMs = 25;
const restartMs = 200;
/** When the story breaks off, clients are still there. */
const grace = ['--grace', '1'];

export interface DriverOptions {
  /** All of it lies there. */
  readonly folder: string;
  /** For its processes: the sandbox's mark. */
  readonly environment: Readonly<Record<string, string>>;
  /** Attaching needs root. Without, there are only the volumedriver and the CSI controller. */
  readonly attaches: boolean;
}

export class Driver {
  readonly csi: CsiClient;
  readonly #options: DriverOptions;
  readonly #children = new Map<string, ChildProcess>();
  #ended: string | null = null;
  #stopping = false;

  constructor(options: DriverOptions) {
    this.#options = options;
    this.csi = new CsiClient({ kind: 'unix', path: join(options.folder, 'csi.sock') });
    for (const args of rolesOf(options)) this.#start(args);
  }

  get pids(): number[] {
    return [...this.#children.values()].flatMap(({ pid }) => pid ?? []);
  }

  /** Resolves when the driver can make volumes; rejects after half a minute, or when it ends. */
  async ready(): Promise<void> {
    await waitFor('the driver to get ready', readyMs, async () => {
      if (this.#ended !== null) throw new Error(`the driver ended: ${this.#ended}`);
      return await this.csi.isReady().catch(() => false);
    });
  }

  /** Kills the volumedriver's process the hard way: SIGKILL cannot be caught. Resolves with its pid. */
  async killVolumedriver(): Promise<number> {
    const pid = this.#volumedriverPid();
    if (pid === null) throw new Error('the lock file of the data directory names no process');
    process.kill(pid, 'SIGKILL');
    await waitFor(`process ${pid} to end`, 5000, () => Promise.resolve(!isRunning(pid)));
    return pid;
  }

  /** The pid of the volumedriver that took the place of `killedPid`, once it works. */
  async replacementOf(killedPid: number): Promise<number> {
    await waitFor('a new volumedriver', readyMs, async () => {
      if ([null, killedPid].includes(this.#volumedriverPid())) return false;
      return await this.csi.isReady().catch(() => false);
    });
    const pid = this.#volumedriverPid();
    if (pid === null) throw new Error('the new volumedriver has ended');
    return pid;
  }

  /** Every key of the backend, without the writer numbers, and how many of those there are. */
  listStore(): { keys: string[]; writers: number } {
    const store = join(this.#options.folder, 'store');
    const files = readdirSync(store, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(store.length + 1))
      .sort();
    const keys = files.filter((key) => !key.startsWith('writers/'));
    return { keys, writers: files.length - keys.length };
  }

  /** Sockets that are left after stop(). */
  sockets(): string[] {
    return readdirSync(this.#options.folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isSocket())
      .map((entry) => join(entry.parentPath, entry.name));
  }

  /** The last lines of the log that tell of trouble. */
  lastWords(): string[] {
    const path = join(this.#options.folder, 'driver.log');
    if (!existsSync(path)) return [];
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    return lines.filter((line) => !line.includes('"level":"info"')).slice(-5);
  }

  /** Asks all of it to end, the data plane last; kills it after half a minute. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.csi.close();
    for (const [role, child] of [...this.#children].reverse()) {
      child.kill('SIGTERM');
      try {
        const ended = (): Promise<boolean> => Promise.resolve(!this.#children.has(role));
        await waitFor(`${role} to end`, stopMs, ended);
      } catch (error) {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
        throw error;
      }
    }
  }

  #start(args: readonly string[]): void {
    const { folder, environment } = this.#options;
    const [role = ''] = args;
    const log = openSync(join(folder, 'driver.log'), 'a', 0o600);
    const child = spawn(join(root, 'bin/volumedriver-csi'), args, {
      detached: true,
      stdio: ['ignore', log, log],
      env: { ...process.env, ...environment },
    });
    closeSync(log);
    this.#children.set(role, child);
    child.once('error', (error) => (this.#ended = error.message));
    child.once('exit', (code, signal) => {
      this.#children.delete(role);
      if (this.#stopping) return;
      if (role !== 'volumedriver') this.#ended = signal ?? `${role}: exit code ${String(code)}`;
      else void systemClock.sleep(restartMs).then(() => this.#restart(args));
    });
  }

  /** What `all`, or Kubernetes, does otherwise. */
  #restart(args: readonly string[]): void {
    if (!this.#stopping) this.#start(args);
  }

  /** The lock file of the data directory names its holder; for a moment at its start, nobody. */
  #volumedriverPid(): number | null {
    const text = readFileSync(join(this.#options.folder, 'data/volumedriver/lock'), 'utf8');
    const digits = /^process (\d+)/.exec(text)?.[1];
    return digits === undefined ? null : Number(digits);
  }
}

/** The arguments of each process, data plane first. */
function rolesOf({ folder, attaches }: DriverOptions): string[][] {
  const store = ['--backend', `file:${join(folder, 'store')}`];
  const csi = ['--csi', `unix:${join(folder, 'csi.sock')}`];
  const node = ['--node-id', nodeId];
  if (attaches) {
    return [['all', '--data-dir', join(folder, 'data'), ...store, ...csi, ...node, ...grace]];
  }
  const data = ['--data-dir', join(folder, 'data/volumedriver')];
  const api = `unix:${join(folder, 'api.sock')}`;
  const sockets = ['--nbd', `unix:${join(folder, 'nbd.sock')}`, '--api', api];
  return [
    ['volumedriver', ...data, ...store, ...sockets, ...node, ...grace],
    ['controller', ...csi, '--volumedriver', api, '--known-nodes', nodeId],
  ];
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Polls until `check` resolves to true; rejects after `timeoutMs`. */
export async function waitFor(
  what: string,
  timeoutMs: number,
  check: () => Promise<boolean>,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await check())) {
    if (performance.now() > deadline) {
      throw new Error(`waited ${timeoutMs / 1000} s in vain for ${what}`);
    }
    await systemClock.sleep(pollMs);
  }
}
