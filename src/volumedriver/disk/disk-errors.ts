/** Translates the errors of node:fs into VolumeErrors, as the contract in disk.ts says. */
import { VolumeError, type ErrorCode } from '../../volumes/errors.ts';

const codes: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'OUT_OF_SPACE',
  EDQUOT: 'OUT_OF_SPACE',
  ENOENT: 'PATH_NOT_FOUND',
  EEXIST: 'ALREADY_EXISTS',
};

/** The name of the errno that node:fs put on an error, such as ENOENT; undefined for anything else. */
export function errnoName(error: unknown): string | undefined {
  // Not instanceof: an error made by another realm of the process (a test's sandbox) is no Error of this one.
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** `what` is the operation and its path, such as "write /data/x". */
export function diskError(error: unknown, what: string): VolumeError {
  if (error instanceof VolumeError) return error;
  const name = errnoName(error);
  const why = name ?? (error instanceof Error ? error.message : String(error));
  const code = (name === undefined ? undefined : codes[name]) ?? 'INTERNAL';
  return new VolumeError(code, `${what}: ${why}`, { cause: error });
}
