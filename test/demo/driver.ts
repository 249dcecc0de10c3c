/**
 * The driver under the story: `volumedriver-csi all` as a process of its own, in a session of its own, so that Ctrl-C
 * reaches the story alone, which then stops it in good order.
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

export class Driver {
  readonly csi: CsiClient;
  readonly #folder: string;
  readonly #child: ChildProcess;
  #ended: string | null = null;

  private constructor(folder: string, child: ChildProcess) {
    this.#folder = folder;
    this.#child = child;
    this.csi = new CsiClient({ kind: 'unix', path: join(folder, 'csi.sock') });
    child.once('error', (error) => (this.#ended = error.message));
    child.once('exit', (code, signal) => (this.#ended = signal ?? `exit code ${String(code)}`));
  }

  /** Starts it below `folder`, with the sandbox's mark in its environment. */
  static start(folder: string, environment: Readonly<Record<string, string>>): Driver {
    const log = openSync(join(folder, 'driver.log'), 'a', 0o600);
    const child = spawn(
      join(root, 'bin/volumedriver-csi'),
      [
        'all',
        ...['--data-dir', join(folder, 'data'), '--backend', `file:${join(folder, 'store')}`],
        ...['--csi', `unix:${join(folder, 'csi.sock')}`, '--node-id', nodeId],
        // When the story breaks off, clients are still there.
        ...['--grace', '1'],
      ],
      { detached: true, stdio: ['ignore', log, log], env: { ...process.env, ...environment } },
    );
    closeSync(log);
    return new Driver(folder, child);
  }

  get pid(): number | undefined {
    return this.#child.pid;
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
    const store = join(this.#folder, 'store');
    const files = readdirSync(store, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(store.length + 1))
      .sort();
    const keys = files.filter((key) => !key.startsWith('writers/'));
    return { keys, writers: files.length - keys.length };
  }

  /** Sockets that are left after stop(). */
  sockets(): string[] {
    return readdirSync(this.#folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isSocket())
      .map((entry) => join(entry.parentPath, entry.name));
  }

  /** The last lines of the log that tell of trouble. */
  lastWords(): string[] {
    const path = join(this.#folder, 'driver.log');
    if (!existsSync(path)) return [];
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    return lines.filter((line) => !line.includes('"level":"info"')).slice(-5);
  }

  /** Asks it to end, kills it after half a minute. Idempotent. */
  async stop(): Promise<void> {
    this.csi.close();
    if (this.#ended !== null || this.#child.pid === undefined) return;
    this.#child.kill('SIGTERM');
    try {
      await waitFor('the driver to end', stopMs, () => Promise.resolve(this.#ended !== null));
    } catch (error) {
      process.kill(-this.#child.pid, 'SIGKILL');
      throw error;
    }
  }

  /** The lock file of the data directory names its holder; for a moment at its start, nobody. */
  #volumedriverPid(): number | null {
    const text = readFileSync(join(this.#folder, 'data/volumedriver/lock'), 'utf8');
    const digits = /^process (\d+)/.exec(text)?.[1];
    return digits === undefined ? null : Number(digits);
  }
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
