import { describe, expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { CommandError, runCommand } from './command.ts';

async function failureOf(promise: Promise<unknown>): Promise<CommandError> {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(CommandError);
  return error as CommandError;
}

const timeoutMs = 10_000;

describe('runCommand', () => {
  test('returns both outputs and the exit code', async () => {
    const result = await runCommand('sh', ['-c', 'echo out; echo err >&2'], { timeoutMs });
    expect(result).toEqual({ stdout: 'out\n', stderr: 'err\n', exitCode: 0 });
  });

  test('passes arguments without a shell', async () => {
    const result = await runCommand('printf', ['%s', '$(id); *'], { timeoutMs });
    expect(result.stdout).toBe('$(id); *');
  });

  test('sets LC_ALL=C', async () => {
    const result = await runCommand('sh', ['-c', 'printf %s "$LC_ALL"'], { timeoutMs });
    expect(result.stdout).toBe('C');
  });

  test('feeds the input, and none by default', async () => {
    expect((await runCommand('cat', [], { timeoutMs, input: 'hello' })).stdout).toBe('hello');
    expect((await runCommand('cat', [], { timeoutMs })).stdout).toBe('');
  });

  test('survives a program that does not read its input', async () => {
    const input = Buffer.alloc(1024 * 1024);
    expect((await runCommand('true', [], { timeoutMs, input })).exitCode).toBe(0);
  });

  test('reports exit code and stderr of a failure', async () => {
    const error = await failureOf(
      runCommand('sh', ['-c', 'echo no such thing >&2; exit 32'], { timeoutMs }),
    );
    expect(error).toMatchObject({ failure: 'failed', exitCode: 32, stderr: 'no such thing\n' });
    expect(error.message).toBe('sh failed: exit code 32: no such thing');
  });

  test('accepts the exit codes it is told to', async () => {
    const result = await runCommand('sh', ['-c', 'exit 2'], { timeoutMs, acceptExitCodes: [0, 2] });
    expect(result.exitCode).toBe(2);
  });

  test('reports a signal as a failure', async () => {
    const error = await failureOf(runCommand('sh', ['-c', 'kill -TERM $$'], { timeoutMs }));
    expect(error).toMatchObject({ failure: 'failed', exitCode: null });
    expect(error.message).toContain('SIGTERM');
  });

  test('reports a program that does not exist', async () => {
    const error = await failureOf(runCommand('/nonexistent/program', [], { timeoutMs }));
    expect(error.failure).toBe('missing');
  });

  test('kills the whole group at the time limit', async () => {
    const started = performance.now();
    const error = await failureOf(
      runCommand('sh', ['-c', 'sleep 61 & echo $! >&2; wait'], { timeoutMs: 300 }),
    );
    expect(error.failure).toBe('timed-out');
    expect(performance.now() - started).toBeLessThan(5000);
    await expect(sleeperGone(Number(error.stderr))).resolves.toBe(true);
  });

  test('does not wait for a daemon that keeps the pipes open', async () => {
    const started = performance.now();
    const result = await runCommand('sh', ['-c', 'sleep 3 & echo done'], { timeoutMs });
    expect(result.stdout).toBe('done\n');
    expect(performance.now() - started).toBeLessThan(2500);
  });

  test('fails a program that prints without end', async () => {
    const error = await failureOf(runCommand('yes', [], { timeoutMs }));
    expect(error.failure).toBe('too-much-output');
  });

  test('drops excessive standard error but lets the program end', async () => {
    const result = await runCommand('sh', ['-c', 'head -c 300000 /dev/zero >&2; echo done'], {
      timeoutMs,
    });
    expect(result.stdout).toBe('done\n');
    expect(result.stderr.length).toBe(64 * 1024);
  });
});

/** A zombie has ended, too: it may wait long for a parent that reaps it. */
async function sleeperGone(pid: number): Promise<boolean> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '');
    // proc_pid_stat(5): the state follows the command, which is in parentheses and may contain some.
    if (stat === '' || stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z')) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}
