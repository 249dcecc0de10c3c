/**
 * Runs an external program once and waits for it, always for a bounded time. No shell ever sees the arguments;
 * LC_ALL=C keeps messages stable. The program leads a process group of its own, so that a time limit kills its
 * children with it; a program that cannot even be killed (uninterruptible sleep) is left behind, never waited for.
 *
 * This layer knows no VolumeError: outside of base, call runCommand of src/volumes/command.ts, which has the same
 * arguments and translates.
 */
import { spawn, type ChildProcess } from 'node:child_process';

export interface CommandOptions {
  /** The child's whole group gets SIGKILL after this long. */
  readonly timeoutMs: number;
  /** Written to standard input, which is empty otherwise. */
  readonly input?: string | Buffer;
  /** Exit codes that are no failure; [0] unless given. */
  readonly acceptExitCodes?: readonly number[];
}

export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export type RunCommand = (
  command: string,
  args: readonly string[],
  options: CommandOptions,
) => Promise<CommandResult>;

/**
 * missing: the program could not be started. failed: it ended with an exit code that is not accepted, or by a
 * signal. timed-out: it was killed; its work may be done in part. too-much-output: likewise.
 */
export type CommandFailure = 'missing' | 'failed' | 'timed-out' | 'too-much-output';

export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly failure: CommandFailure;
  /** Null when the program did not end by itself. */
  readonly exitCode: number | null;
  readonly stderr: string;

  constructor(
    failure: CommandFailure,
    message: string,
    details: { exitCode: number | null; stderr: string; cause?: unknown },
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.failure = failure;
    this.exitCode = details.exitCode;
    this.stderr = details.stderr;
  }
}

/** More on standard output fails the command; more on standard error is dropped. */
const outputBytesMax = 4 * 1024 * 1024;
const stderrBytesMax = 64 * 1024;
/** How much of standard error goes into an error's message. */
const messageCharsMax = 2000;
/** How long output may still arrive after the program ended: a daemon that it left may hold the pipes. */
const drainMs = 500;

/**
 * Rejects with a CommandError. `command` is a name on the PATH or a path.
 */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandResult> {
  const child = spawn(command, args, {
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  const stdout = new Collector();
  const stderr = new Collector();
  const end = await waitForEnd(child, { stdout, stderr, ...options });
  const errorText = stderr.text(stderrBytesMax);
  const result = { stdout: stdout.text(outputBytesMax), stderr: errorText };
  if (end.kind === 'exited') {
    if ((options.acceptExitCodes ?? [0]).includes(end.exitCode))
      return { ...result, exitCode: end.exitCode };
    throw failed('failed', `exit code ${end.exitCode}`, end.exitCode);
  }
  if (end.kind === 'signalled') throw failed('failed', `killed by ${end.signal}`, null);
  if (end.kind === 'missing') throw failed('missing', 'cannot be started', null, end.cause);
  if (end.kind === 'too-much-output') {
    throw failed('too-much-output', `printed more than ${outputBytesMax} bytes`, null);
  }
  throw failed('timed-out', `no end after ${options.timeoutMs} ms`, null);

  function failed(
    failure: CommandFailure,
    why: string,
    exitCode: number | null,
    cause?: unknown,
  ): CommandError {
    const said = errorText.trim().slice(-messageCharsMax);
    const message = `${command} failed: ${why}${said === '' ? '' : `: ${said}`}`;
    return new CommandError(failure, message, { exitCode, stderr: errorText, cause });
  }
}

type End =
  | { kind: 'exited'; exitCode: number }
  | { kind: 'signalled'; signal: string }
  | { kind: 'missing'; cause: Error }
  | { kind: 'too-much-output' }
  | { kind: 'timed-out' };

interface Wait extends CommandOptions {
  readonly stdout: Collector;
  readonly stderr: Collector;
}

function waitForEnd(child: ChildProcess, wait: Wait): Promise<End> {
  return new Promise((resolve) => {
    const timers: NodeJS.Timeout[] = [];
    let settled = false;
    const settle = (end: End): void => {
      if (settled) return;
      settled = true;
      timers.forEach(clearTimeout);
      child.stdin?.destroy();
      child.stdout?.destroy();
      child.stderr?.destroy();
      child.unref();
      resolve(end);
    };
    const abort = (end: End): void => {
      killGroup(child);
      settle(end);
    };
    timers.push(
      setTimeout(() => {
        abort({ kind: 'timed-out' });
      }, wait.timeoutMs),
    );
    child.on('error', (cause) => {
      settle({ kind: 'missing', cause });
    });
    child.on('exit', (exitCode, signal) => {
      const end = endOf(exitCode, signal);
      child.on('close', () => {
        settle(end);
      });
      timers.push(
        setTimeout(() => {
          settle(end);
        }, drainMs),
      );
    });
    child.stdout?.on('data', (chunk: Buffer) => {
      wait.stdout.add(chunk, outputBytesMax);
      if (wait.stdout.overflowed) abort({ kind: 'too-much-output' });
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      wait.stderr.add(chunk, stderrBytesMax);
    });
    // A program may end without reading its input: EPIPE is then its business, told by its exit code.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(wait.input ?? '');
  });
}

function endOf(exitCode: number | null, signal: NodeJS.Signals | null): End {
  if (exitCode !== null) return { kind: 'exited', exitCode };
  return { kind: 'signalled', signal: signal ?? 'an unknown signal' };
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // ESRCH: it ended just now, and so did its group.
  }
}

class Collector {
  readonly #chunks: Buffer[] = [];
  #lengthBytes = 0;
  overflowed = false;

  add(chunk: Buffer, maxBytes: number): void {
    if (this.#lengthBytes >= maxBytes) {
      this.overflowed = true;
      return;
    }
    this.#chunks.push(chunk);
    this.#lengthBytes += chunk.length;
    if (this.#lengthBytes > maxBytes) this.overflowed = true;
  }

  text(maxBytes: number): string {
    return Buffer.concat(this.#chunks).subarray(0, maxBytes).toString('utf8');
  }
}
