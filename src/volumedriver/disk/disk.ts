/**
 * The engine's only door to a filesystem. LinuxDisk is the real one; test/support/simulated-disk.ts drops or tears
 * what was not synced. Calls that are synchronous here are ones that the page cache answers; whatever waits for the
 * device returns a promise. Failures are VolumeErrors: OUT_OF_SPACE for ENOSPC and EDQUOT, PATH_NOT_FOUND for ENOENT,
 * INTERNAL with the cause for anything else.
 */
import type { Capacity } from '../../volumes/volume.ts';

export interface Disk {
  /** Creates a new, empty file for reading and writing; ALREADY_EXISTS when the path is taken. */
  create(path: string): DiskFile;
  /** Opens an existing file. */
  open(path: string, access: 'read' | 'write'): DiskFile;
  /** Names in a directory, sorted; empty when it doesn't exist. */
  list(directory: string): string[];
  /** Makes the directory and its missing parents. */
  makeDirectory(path: string): void;
  /** Size in bytes of a file, undefined when there is none. */
  sizeOf(path: string): number | undefined;
  /** Removes a file or an empty directory; nothing to do when it is gone. */
  remove(path: string): void;
  /** rename(2): replaces `to`. */
  rename(from: string, to: string): void;
  /** link(2): false when `to` exists already. NOT_CAPABLE across filesystems or where links are refused. */
  link(from: string, to: string): boolean;
  /** fsync(2) of a directory: entries made, renamed and removed in it so far survive a power cut. */
  syncDirectory(path: string): Promise<void>;
  /** statfs(2) of the filesystem that holds the path. */
  capacity(path: string): Promise<Capacity>;
}

export interface DiskFile {
  readonly path: string;
  /** Writes all the bytes at `position`, without waiting for the device. */
  write(buffers: readonly Uint8Array[], position: number): void;
  /** As write, off the thread: the bytes must not change until it settles. Not every disk has it. */
  writeOffThread?(buffers: readonly Uint8Array[], position: number): Promise<void>;
  /** Fills `buffer` from the page cache alone; false when any byte would have to come from the device or lies past the end. */
  readCached(buffer: Uint8Array, position: number): boolean;
  /** Bytes read: fewer than asked only at the end of the file. Blocks the thread. */
  readSync(buffer: Uint8Array, position: number): number;
  /** As readSync, off the thread. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** fdatasync(2): everything written to this file so far, and its length, survives a power cut. */
  sync(): Promise<void>;
  truncate(sizeBytes: number): void;
  sizeBytes(): number;
  /** Idempotent. Waits for nothing. */
  close(): void;
}
