import { describe, expect, test } from '@jest/globals';
import { commandErrorOf, runCommand } from './command.ts';

describe('runCommand with VolumeErrors', () => {
  const cases = [
    { name: 'a failure', command: 'sh', args: ['-c', 'exit 3'], timeoutMs: 5000, code: 'INTERNAL' },
    { name: 'a time limit', command: 'sleep', args: ['30'], timeoutMs: 200, code: 'UNAVAILABLE' },
    {
      name: 'a missing program',
      command: '/nonexistent',
      args: [],
      timeoutMs: 5000,
      code: 'NOT_CAPABLE',
    },
  ];
  test.each(cases)('$name is $code', async ({ command, args, timeoutMs, code }) => {
    await expect(runCommand(command, args, { timeoutMs })).rejects.toMatchObject({
      name: 'VolumeError',
      code,
    });
  });

  test('keeps the exit code within reach', async () => {
    const error: unknown = await runCommand('sh', ['-c', 'exit 7'], { timeoutMs: 5000 }).catch(
      (e: unknown) => e,
    );
    expect(commandErrorOf(error)?.exitCode).toBe(7);
  });
});
