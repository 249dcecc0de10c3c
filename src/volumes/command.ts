/** runCommand of src/base/command.ts for everyone above base: the same call, rejecting with a VolumeError. */
import { CommandError, runCommand as run } from '../base/command.ts';
import type { CommandFailure, CommandOptions, CommandResult, RunCommand } from '../base/command.ts';
import { toVolumeError, VolumeError, type ErrorCode } from './errors.ts';

export type { CommandOptions, CommandResult, RunCommand };

/** A killed program may have done its work, or still be doing it: never INTERNAL, which says that nothing was made. */
const failureCodes = {
  missing: 'NOT_CAPABLE',
  failed: 'INTERNAL',
  'timed-out': 'UNAVAILABLE',
  'too-much-output': 'UNAVAILABLE',
} as const satisfies Record<CommandFailure, ErrorCode>;

/**
 * Runs a program without a shell. Rejects with a VolumeError whose cause is a CommandError (exit code, stderr):
 * INTERNAL when it failed, UNAVAILABLE when it was killed at its time limit, NOT_CAPABLE when it cannot be started.
 */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandResult> {
  try {
    return await run(command, args, options);
  } catch (error) {
    if (!(error instanceof CommandError)) throw toVolumeError(error, command);
    throw new VolumeError(failureCodes[error.failure], error.message, { cause: error });
  }
}

/** What the program said, when `error` came from runCommand. */
export function commandErrorOf(error: unknown): CommandError | undefined {
  if (error instanceof CommandError) return error;
  if (error instanceof VolumeError && error.cause instanceof CommandError) return error.cause;
  return undefined;
}
