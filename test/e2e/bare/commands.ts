/** External programs of the bare provider: short ones that are waited for, and daemons with a log. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { runCommand } from '../../../src/base/command.ts';
import { delay, within } from '../support/waiting.ts';

const shortLimitMs = 30_000;

/** Resolves with standard output; rejects with standard error in the message. */
export async function run(
  command: readonly string[],
  options: { readonly timeoutMs?: number; readonly acceptFailure?: boolean } = {},
): Promise<string> {
  const [program = '', ...args] = command;
  const { timeoutMs = shortLimitMs, acceptFailure = false } = options;
  const accepted = acceptFailure
    ? { acceptExitCodes: Array.from({ length: 256 }, (_, i) => i) }
    : {};
  return (await runCommand(program, args, { timeoutMs, ...accepted })).stdout;
}

/** A process that runs until it is ended, with a process group of its own; its output is appended to a log. */
export class Daemon {
  readonly name: string;
  readonly #command: readonly string[];
  readonly #log: string;
  #child: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();

  constructor(name: string, command: readonly string[], logDirectory: string) {
    this.name = name;
    this.#command = command;
    this.#log = `${logDirectory}/${name}.log`;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Why it ended, or undefined while it runs. */
  ending: string | undefined = 'not started';

  start(): void {
    const [program = '', ...args] = this.#command;
    const log = openSync(this.#log, 'a');
    const child = spawn(program, args, { detached: true, stdio: ['ignore', log, log], cwd: '/' });
    closeSync(log);
    this.#child = child;
    this.ending = undefined;
    this.#ended = new Promise((resolve) => {
      const end = (why: string): void => {
        this.ending ??= why;
        this.#child = undefined;
        resolve();
      };
      child.once('error', (error) => end(error.message));
      child.once('exit', (code, signal) => end(`it ended with ${code ?? signal ?? 'nothing'}`));
    });
  }

  /** SIGTERM, and SIGKILL after the grace. Resolves when it is gone; content when it is not there. */
  async stop(graceMs = 15_000): Promise<void> {
    this.#signal('SIGTERM');
    if (await endsWithin(this.#ended, graceMs)) return;
    await this.kill();
  }

  async kill(): Promise<void> {
    this.#signal('SIGKILL');
    await within(`${this.name} ends after SIGKILL`, 20_000, this.#ended);
  }

  #signal(signal: NodeJS.Signals): void {
    const pid = this.#child?.pid;
    if (pid === undefined) return;
    try {
      process.kill(-pid, signal);
    } catch {
      // It has just ended.
    }
  }

  /** Until `probe` says true. Rejects at once when the daemon ends, and after the limit. */
  async untilReady(limitMs: number, probe: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!(await probe())) {
      if (this.ending !== undefined)
        throw new Error(`${this.name}: ${this.ending}: see ${this.#log}`);
      if (performance.now() > deadline) {
        throw new Error(`${this.name}: not ready within ${limitMs / 1000} s: see ${this.#log}`);
      }
      await delay(100);
    }
  }
}

async function endsWithin(ended: Promise<void>, limitMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, limitMs, false);
  });
  try {
    return await Promise.race([ended.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
