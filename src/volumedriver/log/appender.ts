/**
 * An ordered appender on one open file: the contract of Open vSwitch's async-append (creating one always succeeds,
 * strict order, bounded, blocks when full, falls back to synchronous I/O), and beyond it errors that stay and a
 * separate, durable sync. Neither implementation opens or closes the file. One user at a time: nobody else may
 * write to the file, and calls come from one thread.
 *
 * Errors. A failed write or sync is final: from then on everything is HALTED, with the first failure as its cause.
 * The one exception is a write that finds no space. Nothing of it was acknowledged, since that takes a flush, so the
 * appender stays in order: the call is OUT_OF_SPACE, and resume() tells where to go on. Bytes of it may lie behind
 * that position in the file; whatever reads the file must recognise its records.
 */
import { VolumeError } from '../../volumes/errors.ts';
import type { DiskFile } from '../disk/disk.ts';

export interface Appender {
  /** Where the next append goes, as long as none is waiting. */
  readonly position: number;
  /** Everything before it was covered by a successful sync (or lay before the appender's start). */
  readonly durablePosition: number;

  /**
   * Admits the bytes, in the order of calls, and tells where they go in the file. A promise when too much is in
   * flight: it resolves on admission. The bytes must not change until a later flush has resolved. Throws or rejects
   * OUT_OF_SPACE, HALTED, or SHUTTING_DOWN after destroy.
   */
  append(buffers: readonly Uint8Array[]): number | Promise<number>;

  /** Resolves when all bytes appended so far are with the operating system: a process crash can't lose them. */
  flush(): Promise<void>;

  /**
   * Resolves when all bytes appended so far survive a power cut. Callers share syncs; one that was already running
   * at the time of the call doesn't count.
   */
  sync(): Promise<void>;

  /**
   * After OUT_OF_SPACE: drops what no flush has confirmed and returns the position to go on from. Harmless at other
   * times, except that it must not be called while appends are in flight. Throws HALTED.
   */
  resume(): number;

  /** Flushes, and refuses further calls. Leaves the file open. Can be repeated. */
  destroy(): Promise<void>;
}

export interface AppenderOptions {
  /** The file's end so far, in bytes. */
  readonly position: number;
  /** How much may be in flight before append makes its caller wait. A longer single append goes alone. */
  readonly bytesInFlightMax?: number;
  readonly requestsInFlightMax?: number;
}

export function totalBytes(buffers: readonly Uint8Array[]): number {
  let sum = 0;
  for (const buffer of buffers) sum += buffer.byteLength;
  return sum;
}

export function haltedError(file: DiskFile, cause: unknown): VolumeError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new VolumeError('HALTED', `append to ${file.path}: stopped after a failure: ${why}`, {
    cause,
  });
}

export function destroyedError(file: DiskFile): VolumeError {
  return new VolumeError('SHUTTING_DOWN', `append to ${file.path}: the appender was destroyed`);
}
