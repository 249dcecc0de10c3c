/**
 * An open file of LinuxDisk. The descriptor is given back when the file is closed and no call off the thread uses
 * it any more.
 */
import fs from 'node:fs';
import { errno, readNoWait } from '../../base/ffi.ts';
import { assert } from '../../base/assert.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { diskError } from './disk-errors.ts';
import type { DiskFile } from './disk.ts';
import { GroupSync } from './group-sync.ts';

/**
 * Where the kernel or the filesystem has no RWF_NOWAIT, a cached read this small is simply made: it may block the
 * thread for one device access. Longer ones count as not cached and go off the thread.
 */
const blockingReadBytesMax = 64 * 1024;

type Callback<T> = (error: Error | null, value: T) => void;

export class LinuxFile implements DiskFile {
  readonly path: string;
  readonly #fd: number;
  #noWait = true;
  #closed = false;
  #operationsRunning = 0;
  readonly #syncs = new GroupSync(() => this.#syncNow());
  #syncFailure: Error | null = null;

  constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  write(buffers: readonly Uint8Array[], position: number): void {
    this.#assertOpen();
    const [first, ...more] = buffers;
    if (first === undefined) return;
    try {
      if (more.length === 0) this.#writeOne(first, position);
      else this.#writeMany(buffers, position);
    } catch (error) {
      throw diskError(error, `write ${this.path}`);
    }
  }

  async writeOffThread(buffers: readonly Uint8Array[], position: number): Promise<void> {
    await this.#offThread('write', async () => {
      let rest = withoutEmpty(buffers);
      let at = position;
      while (rest.length > 0) {
        const part = rest;
        const count = await called<number>((callback) => {
          fs.writev(this.#fd, part, at, callback);
        });
        if (count === 0) throw new VolumeError('INTERNAL', `write ${this.path}: wrote nothing`);
        at += count;
        rest = behind(rest, count);
      }
    });
  }

  readCached(buffer: Uint8Array, position: number): boolean {
    this.#assertOpen();
    const length = buffer.byteLength;
    if (this.#noWait) {
      const count = readNoWait(this.#fd, buffer, position);
      if (count >= 0) return count === length;
      if (count === -errno.EAGAIN) return false;
      // EOPNOTSUPP, ENOSYS, EINVAL: this file can't say. A damaged device (EIO) shows itself in the read below.
      this.#noWait = false;
    }
    return length <= blockingReadBytesMax && this.readSync(buffer, position) === length;
  }

  readSync(buffer: Uint8Array, position: number): number {
    this.#assertOpen();
    try {
      let done = 0;
      while (done < buffer.byteLength) {
        const count = fs.readSync(
          this.#fd,
          buffer,
          done,
          buffer.byteLength - done,
          position + done,
        );
        if (count === 0) break;
        done += count;
      }
      return done;
    } catch (error) {
      throw diskError(error, `read ${this.path}`);
    }
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    return await this.#offThread('read', async () => {
      let done = 0;
      while (done < buffer.byteLength) {
        const from = done;
        const count = await called<number>((callback) => {
          fs.read(this.#fd, buffer, from, buffer.byteLength - from, position + from, callback);
        });
        if (count === 0) break;
        done += count;
      }
      return done;
    });
  }

  async sync(): Promise<void> {
    await this.#offThread('sync', () => this.#syncs.sync());
  }

  truncate(sizeBytes: number): void {
    this.#assertOpen();
    try {
      fs.ftruncateSync(this.#fd, sizeBytes);
    } catch (error) {
      throw diskError(error, `truncate ${this.path}`);
    }
  }

  sizeBytes(): number {
    this.#assertOpen();
    try {
      return fs.fstatSync(this.#fd).size;
    } catch (error) {
      throw diskError(error, `stat ${this.path}`);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#releaseWhenUnused();
  }

  #writeOne(buffer: Uint8Array, position: number): void {
    let done = 0;
    while (done < buffer.byteLength) {
      const count = fs.writeSync(this.#fd, buffer, done, buffer.byteLength - done, position + done);
      if (count === 0) throw new VolumeError('INTERNAL', `write ${this.path}: wrote nothing`);
      done += count;
    }
  }

  #writeMany(buffers: readonly Uint8Array[], position: number): void {
    let rest = withoutEmpty(buffers);
    let at = position;
    while (rest.length > 0) {
      const count = fs.writevSync(this.#fd, rest, at);
      if (count === 0) throw new VolumeError('INTERNAL', `write ${this.path}: wrote nothing`);
      at += count;
      rest = behind(rest, count);
    }
  }

  /** Keeps the descriptor until the operation, which may take several calls, has ended. */
  async #offThread<T>(operation: string, run: () => Promise<T>): Promise<T> {
    if (this.#closed) {
      throw new VolumeError('INTERNAL', `${operation} ${this.path}: file is closed`);
    }
    this.#operationsRunning++;
    try {
      return await run();
    } catch (error) {
      throw diskError(error, `${operation} ${this.path}`);
    } finally {
      this.#operationsRunning--;
      this.#releaseWhenUnused();
    }
  }

  /**
   * The kernel reports a failed write-back to the next sync of a descriptor and to no later one (fsync(2)). So syncs of
   * a file run one after the other, and one that failed fails all that follow.
   */
  async #syncNow(): Promise<void> {
    if (this.#syncFailure !== null) throw this.#syncFailure;
    try {
      await called<undefined>((callback) => {
        fs.fdatasync(this.#fd, (error) => {
          callback(error, undefined);
        });
      });
    } catch (error) {
      this.#syncFailure = error instanceof Error ? error : new Error(String(error));
      throw error;
    }
  }

  #releaseWhenUnused(): void {
    if (!this.#closed || this.#operationsRunning > 0) return;
    // EIO from close(2) would tell of a failed write-back; whoever needs to know has called sync.
    fs.close(this.#fd, () => undefined);
  }

  #assertOpen(): void {
    assert(!this.#closed, `${this.path} is open`);
  }
}

/** One call of node:fs that answers by callback. */
function called<T>(start: (callback: Callback<T>) => void): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    start((error, value) => {
      if (error === null) resolve(value);
      else reject(error);
    });
  });
}

function withoutEmpty(buffers: readonly Uint8Array[]): Uint8Array[] {
  return buffers.filter((buffer) => buffer.byteLength > 0);
}

/** What is left of buffers, none of them empty, when their first `count` bytes are gone. */
function behind(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  let skip = count;
  for (const [index, buffer] of buffers.entries()) {
    if (skip < buffer.byteLength) return [buffer.subarray(skip), ...buffers.slice(index + 1)];
    skip -= buffer.byteLength;
  }
  return [];
}
