/** Programs that main.ts runs: bounded, in a process group of their own, and ended with main.ts. */
import { spawn, type ChildProcess } from 'node:child_process';

const running = new Set<ChildProcess>();

export interface CommandOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly limitMs?: number;
  /** `inherit` lets it print; what it printed is not in the result then. */
  readonly output?: 'inherit' | 'pipe';
}

export interface CommandEnd {
  readonly code: number | null;
  readonly timedOut: boolean;
  /** stdout and stderr, as they came. */
  readonly output: string;
  readonly stdout: string;
}

/** Resolves however it ends; rejects only when it cannot be started. */
export async function runCommand(
  command: readonly string[],
  options: CommandOptions = {},
): Promise<CommandEnd> {
  const { env = process.env, limitMs = 10 * 60_000, output = 'pipe', cwd } = options;
  const [program, ...args] = command;
  if (program === undefined) throw new Error('no command');
  const stdio = ['ignore', output, output] as const;
  const child = spawn(program, args, {
    env,
    detached: true,
    stdio: [...stdio],
    ...(cwd === undefined ? {} : { cwd }),
  });
  running.add(child);
  let all = '';
  let stdout = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    all += text;
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (all += text));
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    kill(child);
  }, limitMs);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      // Not 'close': something that it left behind may hold its output open for ever.
      child.once('exit', (status) => setTimeout(resolve, 50, status));
    });
    return { code, timedOut, output: all, stdout };
  } finally {
    clearTimeout(timer);
    running.delete(child);
  }
}

/** Rejects with the end of its output when it fails; resolves with its stdout. */
export async function mustRun(
  command: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const end = await runCommand(command, options);
  if (end.code === 0) return end.stdout;
  const how = end.timedOut ? 'took too long' : `ended with ${String(end.code)}`;
  throw new Error(`${command.slice(0, 3).join(' ')} ${how}:\n${end.output.trimEnd().slice(-4000)}`);
}

/** Ends all of them, with whatever they have started. */
export function endCommands(): void {
  for (const child of running) kill(child);
}

function kill(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}
