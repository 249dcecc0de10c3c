/** Checks of single fields at the edge of our APIs; each rejects with an INVALID_ARGUMENT that names the field. */
import { VolumeError } from '../volumes/errors.ts';

/** An id or a name: longer ones cannot exist. */
export const referenceBytesMax = 256;

export function invalidArgument(field: string, why: string): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `${field}: ${why}`);
}

/** A text of 1 to `bytesMax` bytes of UTF-8. */
export function requireText(
  field: string,
  value: string,
  bytesMax: number = referenceBytesMax,
): string {
  const length = Buffer.byteLength(value);
  if (length === 0) throw invalidArgument(field, 'it is required');
  if (length > bytesMax)
    throw invalidArgument(field, `it has ${length} bytes and at most ${bytesMax} are allowed`);
  return value;
}

/** An integer from `min` to `max` that a number holds exactly. */
export function requireInteger(
  field: string,
  value: number,
  { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number } = {},
): number {
  if (!Number.isSafeInteger(value))
    throw invalidArgument(field, `${value} is not an integer below 2^53`);
  if (value < min || value > max)
    throw invalidArgument(field, `${value} is not from ${min} to ${max}`);
  return value;
}

/** A value that must be there. */
export function requireValue<Value>(field: string, value: Value | undefined): Value {
  if (value === undefined) throw invalidArgument(field, 'it is missing or unknown');
  return value;
}
