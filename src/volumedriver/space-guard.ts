/**
 * What to do about a full disk. A file of zeroes is kept in the data directory; when a write of the engine meets
 * ENOSPC the file is given up, so that deletes, commits and checkpoints find room, and new data is refused with
 * OUT_OF_SPACE until the reserve could be written again.
 */
import type { Logger } from '../base/logger.ts';
import { VolumeError, hasCode } from '../volumes/errors.ts';
import type { Capacity } from '../volumes/volume.ts';
import type { Disk } from './disk/disk.ts';

const chunk = Buffer.alloc(1024 * 1024);

export interface SpaceGuardOptions {
  disk: Disk;
  logger: Logger;
  directory: string;
  reserveBytes: number;
}

export class SpaceGuard {
  readonly #options: SpaceGuardOptions;
  readonly #path: string;
  #full = false;

  constructor(options: SpaceGuardOptions) {
    this.#options = options;
    this.#path = `${options.directory}/reserve`;
  }

  /** New data is refused: the reserve is not whole. */
  get full(): boolean {
    return this.#full;
  }

  assertRoom(): void {
    if (!this.#full) return;
    throw new VolumeError(
      'OUT_OF_SPACE',
      `writing: the disk of ${this.#options.directory} is full; remove volumes or snapshots, or enlarge it`,
    );
  }

  /** A write met a full disk: frees the reserve for what makes room again. */
  diskIsFull(): void {
    if (this.#full) return;
    this.#full = true;
    this.#options.disk.remove(this.#path);
    this.#options.logger.error('the disk is full: new data is refused', {
      directory: this.#options.directory,
    });
  }

  /** Writes the reserve if it is not whole; true when it is. Needs twice its size free, so as not to swing. */
  async restore(): Promise<boolean> {
    const { disk, directory, reserveBytes, logger } = this.#options;
    if (disk.sizeOf(this.#path) === reserveBytes) {
      this.#full = false;
      return true;
    }
    const capacity = await disk.capacity(directory);
    if (capacity.availableBytes < 2 * reserveBytes) {
      this.#full = true;
      return false;
    }
    try {
      await this.#write();
    } catch (error) {
      if (!hasCode(error, 'OUT_OF_SPACE')) throw error;
      disk.remove(this.#path);
      this.#full = true;
      return false;
    }
    if (this.#full) logger.info('the disk has room again', { directory });
    this.#full = false;
    return true;
  }

  /** What new data may use of the data directory's filesystem. */
  async capacity(): Promise<Capacity> {
    const { disk, directory, reserveBytes } = this.#options;
    const { totalBytes, availableBytes } = await disk.capacity(directory);
    const missing = reserveBytes - (disk.sizeOf(this.#path) ?? 0);
    return { totalBytes, availableBytes: Math.max(0, availableBytes - Math.max(0, missing)) };
  }

  async #write(): Promise<void> {
    const { disk, reserveBytes } = this.#options;
    disk.remove(this.#path);
    const file = disk.create(this.#path);
    try {
      for (let at = 0; at < reserveBytes; at += chunk.length) {
        file.write([chunk.subarray(0, Math.min(chunk.length, reserveBytes - at))], at);
      }
      await file.sync();
    } finally {
      file.close();
    }
  }
}
