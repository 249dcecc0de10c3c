/**
 * A user-mode-linux guest that stays: a kernel of its own in an ordinary process group, which is given commands. They
 * are told on the console, by number; the commands themselves, their output and exit codes are files of a folder that
 * both sides see, so that commands work whatever the guest's network does. Killing the group is the loss of power.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream, writeFileSync } from 'node:fs';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';

const bootMs = 60_000;
const powerOffMs = 60_000;
/** More output of a command fails it. */
const outputBytesMax = 4 * 1024 * 1024;
/** How much of standard error goes into an error's message. */
const messageCharsMax = 2000;
/** How much of the console is kept for messages; its log has all. */
const consoleCharsMax = 4000;
const niceness = -10;
const mark = '@@';

export interface UmlMachineOptions {
  /** Its few files: jobs/, and what the guest's script wants. The guest sees it at /run/node and may write. */
  readonly folder: string;
  readonly logDirectory: string;
  /** The guest's first process, on the host. */
  readonly init: string;
  /** For the first process. Kept short: this is the kernel's command line. */
  readonly environment: Readonly<Record<string, string>>;
  readonly memoryMiB: number;
  /** Changes to the disk go to `changes`, and `base` is not written. */
  readonly disk: { readonly changes: string; readonly base: string };
  readonly tapDevice: string;
  /** A command that replaces itself by the command behind it, in the guest's network namespace. */
  readonly enterNetwork: readonly string[];
}

interface Waiting {
  readonly done: (exitCode: number) => void;
  readonly fail: (error: Error) => void;
}

/** The guest, switched on or off. */
export class UmlMachine {
  readonly #options: UmlMachineOptions;
  readonly #waiting = new Map<number, Waiting>();
  #child: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();
  #console = '';
  #jobs = 0;

  constructor(options: UmlMachineOptions) {
    this.#options = options;
  }

  get running(): boolean {
    return this.#child !== undefined;
  }

  /** Switches it on. Resolves once it takes commands. */
  async boot(): Promise<void> {
    if (this.running) throw new Error('the guest runs already');
    const { folder, logDirectory } = this.#options;
    for (const name of ['jobs', 'uml']) {
      await rm(join(folder, name), { recursive: true, force: true });
      await mkdir(join(folder, name));
    }
    const [command = '', ...args] = [
      ...this.#options.enterNetwork,
      ...['taskset', '--cpu-list', await lastProcessor()],
      ...['linux.uml', ...this.#arguments()],
    ];
    const child = spawn(command, args, {
      // A group of its own, with which its many processes end.
      detached: true,
      // The guest's memory is an (unlinked) file in TMPDIR.
      env: { PATH: process.env['PATH'], TMPDIR: '/dev/shm', HOME: folder },
      stdio: ['pipe', 'pipe', 'pipe', 'pipe', 'pipe'],
    });
    if (child.pid !== undefined) favour(child.pid);
    this.#child = child;
    this.#console = '';
    this.#jobs = 0;
    const ready = Promise.withResolvers<undefined>();
    this.#ended = new Promise((resolve) => {
      child.on('error', (error) => {
        this.#console += `linux.uml: ${error.message}\n`;
      });
      child.on('close', () => {
        this.#child = undefined;
        const error = new Error(`the guest ended: ${this.#console}`);
        ready.reject(error);
        for (const { fail } of this.#waiting.values()) fail(error);
        resolve();
      });
    });
    // A guest that just ended refuses input; who waits learns from its end.
    child.stdin.on('error', () => undefined);
    this.#follow(child, logDirectory, () => {
      ready.resolve(undefined);
    });
    await within(bootMs, 'the guest boots', ready.promise).catch(async (error: unknown) => {
      await this.kill();
      throw new Error(`the guest does not boot: ${this.#console}`, { cause: error });
    });
  }

  /**
   * Runs a command as root, outside of any container, and resolves with its standard output. Rejects when it fails,
   * when it prints more than 4 MiB, when the guest ends, and after the limit, when its session is killed.
   */
  async run(command: readonly string[], timeoutMs: number): Promise<string> {
    const input = this.#child?.stdin;
    if (input === null || input === undefined)
      throw new Error(`${command.join(' ')}: the guest is switched off`);
    const id = ++this.#jobs;
    const folder = join(this.#options.folder, 'jobs', String(id));
    await mkdir(folder);
    await writeFile(join(folder, 'command'), `exec ${command.map(quoted).join(' ')}\n`);
    const done = Promise.withResolvers<number>();
    this.#waiting.set(id, { done: done.resolve, fail: done.reject });
    try {
      input.write(`run ${id}\n`);
      const exitCode = await within(timeoutMs, 'ends', done.promise).catch((error: unknown) => {
        if (input.writable) input.write(`kill ${id}\n`);
        throw error;
      });
      const stdout = await readLimited(join(folder, 'stdout'), outputBytesMax + 1);
      if (exitCode !== 0) {
        const stderr = await readLimited(join(folder, 'stderr'), messageCharsMax);
        throw new Error(
          `exit code ${exitCode}: ${stderr.trim() || stdout.slice(-messageCharsMax)}`,
        );
      }
      if (stdout.length > outputBytesMax) throw new Error(`more than ${outputBytesMax} bytes`);
      await rm(folder, { recursive: true, force: true });
      return stdout;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new Error(`${command.join(' ')} in the guest: ${why}`, { cause: error });
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** Asks for `command`, which switches the guest off, and waits until it is. */
  async powerOff(command: readonly string[]): Promise<void> {
    const ended = this.#ended;
    // Its last words get lost with it.
    this.run(command, powerOffMs).catch(() => undefined);
    await within(powerOffMs, 'the guest switches itself off', ended);
  }

  /** Cuts the power. Resolves when its last process is gone; can be repeated. */
  async kill(): Promise<void> {
    const pid = this.#child?.pid;
    if (pid !== undefined) {
      try {
        process.kill(-pid, 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
    await this.#ended;
  }

  #arguments(): string[] {
    const { folder, init, environment, memoryMiB, disk, tapDevice } = this.#options;
    return [
      ...[`mem=${memoryMiB}M`, 'root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'ro', 'quiet'],
      ...[`init=${init}`, 'selinux=0', 'con0=fd:0,fd:1', 'con=null'],
      ...['ssl0=null,fd:3', 'ssl1=null,fd:4', 'ssl=null', `uml_dir=${join(folder, 'uml')}/`],
      `ubd0=${disk.changes},${disk.base}`,
      `vec0:transport=tap,ifname=${tapDevice},depth=128,gro=1`,
      ...Object.entries(environment).map(([name, value]) => `${name}=${value}`),
    ];
  }

  #follow(child: ChildProcess, logDirectory: string, onReady: () => void): void {
    const [, console, errors, containerd, kubelet] = child.stdio as Readable[];
    const names = { console, containerd, kubelet };
    for (const [name, stream] of Object.entries(names)) {
      if (stream === undefined) continue;
      // Appended to: a log tells of all lives of the guest.
      const log = createWriteStream(join(logDirectory, `${name}.log`), { flags: 'a' });
      stream.pipe(log);
      if (name === 'console') errors?.pipe(log, { end: false });
    }
    let line = '';
    console?.setEncoding('utf8').on('data', (text: string) => {
      this.#console = (this.#console + text).slice(-consoleCharsMax);
      const lines = (line + text).split('\n');
      line = lines.pop() ?? '';
      for (const each of lines) {
        const at = each.indexOf(mark);
        if (at < 0) continue;
        const [what, id, exitCode] = each
          .slice(at + mark.length)
          .trim()
          .split(' ');
        if (what === 'ready') onReady();
        if (what === 'done') this.#waiting.get(Number(id))?.done(Number(exitCode));
      }
    });
  }
}

/**
 * Every system call in the guest is a few switches between processes of the host, of which one runs at a time. On one
 * processor they are two to four times as fast as on several.
 */
async function lastProcessor(): Promise<string> {
  const status = await readFile('/proc/self/status', 'utf8');
  return /^Cpus_allowed_list:.*?(\d+)$/m.exec(status)?.[1] ?? '0';
}

/** For the same reason it suffers more than others on a busy host. Groups of processes are weighed first, if any. */
function favour(pid: number): void {
  try {
    setPriority(pid, niceness);
    writeFileSync(`/proc/${pid}/autogroup`, String(niceness));
  } catch {
    // It is gone already, or there are no such groups.
  }
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

async function readLimited(path: string, maxBytes: number): Promise<string> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(maxBytes), 0, maxBytes, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

async function within<T>(limitMs: number, what: string, promise: Promise<T>): Promise<T> {
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    limit.reject(new Error(`${what}: not within ${limitMs / 1000} s`));
  }, limitMs);
  try {
    return await Promise.race([promise, limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}
