/** How a role says why it could not start: the message of every cause, and the stack only of our own mistakes. */
import { describeError } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';

export function describeFailure(error: unknown): string {
  if (error instanceof VolumeError) return error.message;
  if (error instanceof Error && 'code' in error) return describeError(error);
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
