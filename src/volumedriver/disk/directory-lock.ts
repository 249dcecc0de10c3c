/**
 * Keeps two processes out of one directory: flock(2) on a file in it, which the kernel releases when the
 * process dies, however it dies. The file's content (who holds it) is for the message only.
 */
import fs from 'node:fs';
import { join } from 'node:path';
import { errno, lockFile } from '../../base/ffi.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { diskError } from './disk-errors.ts';

export interface DirectoryLock {
  /** Idempotent. */
  release(): void;
}

const holderBytesMax = 128;

/**
 * Takes the lock of a directory that exists. VOLUME_IN_USE when it is taken, NOT_CAPABLE where the system or
 * the filesystem has no flock. `holder` says who asks, such as "process 4711", for the message that others get.
 * `lockFileName` is the file's name in the directory.
 */
export function lockDirectory(
  directory: string,
  holder = '',
  lockFileName = 'lock',
): DirectoryLock {
  const path = join(directory, lockFileName);
  const flags = fs.constants.O_RDWR | fs.constants.O_CREAT;
  let fd: number;
  try {
    fd = fs.openSync(path, flags, 0o600);
  } catch (error) {
    throw diskError(error, `lock ${directory}`);
  }
  const result = lockFile(fd);
  if (result !== 0) {
    const other = readHolder(fd);
    fs.closeSync(fd);
    if (result !== -errno.EAGAIN) {
      throw new VolumeError('NOT_CAPABLE', `lock ${directory}: flock failed with errno ${-result}`);
    }
    const by = other === '' ? 'another process' : other;
    throw new VolumeError('VOLUME_IN_USE', `lock ${directory}: ${by} uses this directory`);
  }
  recordHolder(fd, holder);
  let released = false;
  return {
    release: () => {
      if (released) return;
      released = true;
      fs.closeSync(fd);
    },
  };
}

function readHolder(fd: number): string {
  const buffer = Buffer.alloc(holderBytesMax);
  const count = fs.readSync(fd, buffer, 0, buffer.length, 0);
  const text = buffer.toString('latin1', 0, count).trim();
  return /^[\x20-\x7e]+$/.test(text) ? text : '';
}

function recordHolder(fd: number, holder: string): void {
  try {
    fs.ftruncateSync(fd, 0);
    fs.writeSync(fd, `${holder.slice(0, holderBytesMax - 1)}\n`, 0);
  } catch {
    // A full disk: the lock holds all the same, and the message names nobody.
  }
}
