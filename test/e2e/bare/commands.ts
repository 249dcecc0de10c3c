/** External programs of the bare provider: short ones that are waited for, and daemons with a log. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { runCommand } from '../../../src/base/command.ts';
import { delay } from '../support/waiting.ts';

const shortLimitMs = 30_000;
const killMs = 20_000;
const startAgainMs = 500;
/** How much of a log goes into an error's message. */
const logCharsMax = 3000;

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

/**
 * A process that runs until it is ended, with a process group of its own; its output is appended to a log. One that is
 * `keptUp` and ends by itself is started again, as a kubelet would do with the parts of a control plane: some of them
 * end on purpose when the API server was away.
 */
export class Daemon {
  readonly name: string;
  readonly #command: readonly string[];
  readonly #log: string;
  readonly #keptUp: boolean;
  #group: number | undefined;
  #wanted = false;

  constructor(name: string, command: readonly string[], logDirectory: string, keptUp = false) {
    this.name = name;
    this.#keptUp = keptUp;
    this.#command = command;
    this.#log = `${logDirectory}/${name}.log`;
  }

  /** Why it ended, or undefined while it runs. */
  ending: string | undefined = 'not started';

  start(): void {
    const [program = '', ...args] = this.#command;
    const log = openSync(this.#log, 'a');
    const child = spawn(program, args, { detached: true, stdio: ['ignore', log, log], cwd: '/' });
    closeSync(log);
    this.#group = child.pid;
    this.ending = undefined;
    this.#wanted = true;
    const end = (why: string): void => {
      if (this.#group !== child.pid) return;
      this.ending ??= why;
      if (!this.#keptUp || !this.#wanted) return;
      setTimeout(() => {
        if (this.#wanted) this.start();
      }, startAgainMs).unref();
    };
    child.once('error', (error) => end(error.message));
    child.once('exit', (code, signal) => end(`it ended with ${code ?? signal ?? 'nothing'}`));
  }

  /** SIGTERM, and SIGKILL after the grace. Resolves when all of it is gone; content when it is not there. */
  async stop(graceMs = 15_000): Promise<void> {
    this.#wanted = false;
    if (!(await this.#ends('SIGTERM', graceMs)) && !(await this.#ends('SIGKILL', killMs))) {
      throw new Error(`${this.name} does not end`);
    }
  }

  /** The whole group, since what was started may be the child of what led the way into a namespace. */
  async #ends(signal: NodeJS.Signals, limitMs: number): Promise<boolean> {
    const group = this.#group;
    if (group === undefined) return true;
    const deadline = performance.now() + limitMs;
    if (!signalGroup(group, signal)) return true;
    while (signalGroup(group, 0)) {
      if (performance.now() > deadline) return false;
      await delay(50);
    }
    return true;
  }

  /** Until `probe` says true. Rejects at once when the daemon ends, and after the limit, with the log's last lines. */
  async untilReady(limitMs: number, probe: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!(await probe())) {
      const late = performance.now() > deadline;
      if (late || this.ending !== undefined) {
        const why = this.ending ?? `not ready within ${limitMs / 1000} s`;
        const log = await readFile(this.#log, 'utf8');
        throw new Error(`${this.name}: ${why}:\n${log.slice(-logCharsMax)}`);
      }
      await delay(100);
    }
  }
}

/** Whether there was anybody to hear it. */
function signalGroup(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-group, signal);
  } catch {
    return false;
  }
}
