/**
 * The appender that writes at once, in the caller's turn: the data path's, because a sequential write that the page
 * cache takes costs less than handing it to another thread. Nothing is ever in flight, so append never waits.
 */
import { hasCode, type VolumeError } from '../../volumes/errors.ts';
import type { DiskFile } from '../disk/disk.ts';
import { GroupSync } from '../disk/group-sync.ts';
import {
  destroyedError,
  haltedError,
  totalBytes,
  type Appender,
  type AppenderOptions,
} from './appender.ts';

export class SyncAppender implements Appender {
  readonly #file: DiskFile;
  readonly #group: GroupSync;
  #position: number;
  #durablePosition: number;
  #failure: VolumeError | undefined;
  #destroyed = false;

  constructor(file: DiskFile, options: AppenderOptions) {
    this.#file = file;
    this.#position = options.position;
    this.#durablePosition = options.position;
    this.#group = new GroupSync(() => this.#syncFile());
  }

  get position(): number {
    return this.#position;
  }

  get durablePosition(): number {
    return this.#durablePosition;
  }

  append(buffers: readonly Uint8Array[]): number {
    this.#check();
    const position = this.#position;
    try {
      this.#file.write(buffers, position);
    } catch (error) {
      if (hasCode(error, 'OUT_OF_SPACE')) throw error;
      throw this.#fail(error);
    }
    this.#position += totalBytes(buffers);
    return position;
  }

  flush(): Promise<void> {
    return new Promise((resolve) => {
      this.#check();
      resolve();
    });
  }

  async sync(): Promise<void> {
    this.#check();
    await this.#group.sync();
  }

  resume(): number {
    this.#check();
    return this.#position;
  }

  destroy(): Promise<void> {
    this.#destroyed = true;
    return this.#failure === undefined ? Promise.resolve() : Promise.reject(this.#failure);
  }

  async #syncFile(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const mark = this.#position;
    try {
      await this.#file.sync();
    } catch (error) {
      throw this.#fail(error);
    }
    // A write that failed meanwhile says nothing about what this sync has covered.
    this.#durablePosition = mark;
  }

  #fail(cause: unknown): VolumeError {
    this.#failure ??= haltedError(this.#file, cause);
    return this.#failure;
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#destroyed) throw destroyedError(this.#file);
  }
}
