/** What happens on a simulated disk, and what can be made to go wrong with it. */
import { diskError } from '../../src/volumedriver/disk/disk-errors.ts';
import type { VolumeError } from '../../src/volumes/errors.ts';

export const operationKinds = [
  'create',
  'open',
  'list',
  'makeDirectory',
  'sizeOf',
  'remove',
  'rename',
  'link',
  'syncDirectory',
  'capacity',
  'write',
  'readCached',
  'readSync',
  'read',
  'sync',
  'truncate',
] as const;
export type OperationKind = (typeof operationKinds)[number];

export interface Operation {
  readonly kind: OperationKind;
  readonly path: string;
  /** Counts all operations of this disk from 1. */
  readonly number: number;
}

export interface Fault {
  readonly kind: OperationKind;
  readonly errno: 'EIO' | 'ENOSPC';
  /** The n-th matching operation from now; the first unless given. */
  readonly nth?: number;
  /** Fail all from then on, not only that one. */
  readonly fromThenOn?: boolean;
  readonly path?: (path: string) => boolean;
}

/** The error that a real disk gives for an errno. */
export function failure(operation: string, path: string, errno: string): VolumeError {
  const cause = Object.assign(new Error(`${errno}, simulated`), { code: errno });
  return diskError(cause, `${operation} ${path}`);
}
