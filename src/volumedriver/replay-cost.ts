/** What a committed TLog adds to the work of the next open, in bytes: a checkpoint is due when the sum passes a limit. */
import type { EngineLimits } from './environment.ts';
import type { TlogHeader } from './format/tlog-header.ts';

/** However short, a slot must be asked for: so many of them alone make a checkpoint due. */
const slotsMax = 256;

export function replayCost(
  header: TlogHeader,
  sizeBytes: number,
  limits: Pick<EngineLimits, 'replayBytesMax'>,
): number {
  if (header.checkpointSlot === header.slot) return 0; // every open reads it, and it ends what came before
  return Math.max(sizeBytes, limits.replayBytesMax / slotsMax);
}
