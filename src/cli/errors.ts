/** An error as one line: what failed, why, and what to do about it. */
import { VolumeError, type ErrorCode } from '../volumes/errors.ts';
import { printable } from './output.ts';

const advice: Partial<Record<ErrorCode, string>> = {
  VOLUME_NOT_FOUND: "see 'vdctl volume ls'",
  SNAPSHOT_NOT_FOUND: "see 'vdctl snapshot ls VOLUME'",
  ALREADY_EXISTS: 'choose another name',
  VOLUME_IN_USE: "'vdctl volume show NAME' tells who uses it",
  HAS_CLONES: 'remove those clones or snapshots first (rm --deferred does not wait for that)',
  OPERATION_PENDING: 'try again when it has ended',
  OUT_OF_SPACE: "'vdctl info' shows what is free",
  SNAPSHOT_TIMEOUT: 'allow more time with --timeout',
  HALTED: 'its log says why; it works again once it is opened anew',
  UNAVAILABLE: 'check that a volumedriver runs there, or give --api the right endpoint',
};

export function errorLine(error: unknown): string {
  if (!(error instanceof VolumeError)) {
    return `vdctl: ${oneLine(error instanceof Error ? error.message : String(error))}`;
  }
  const hint = advice[error.code];
  const text = `vdctl: ${oneLine(error.message)}`;
  return hint === undefined ? text : `${text}; ${hint}`;
}

function oneLine(text: string): string {
  return printable(text.replace(/\s*\n\s*/g, ' '));
}
