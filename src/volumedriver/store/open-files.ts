/**
 * A bounded set of open object files, least recently used out first. Objects never change, so a file and its size
 * stay right until the object is deleted. Closing one that is being read is safe: see linux-disk.ts.
 */
import { hasCode } from '../../volumes/errors.ts';
import type { Disk, DiskFile } from '../disk/disk.ts';

export interface OpenObject {
  readonly file: DiskFile;
  readonly sizeBytes: number;
}

export class OpenFiles {
  readonly #disk: Disk;
  readonly #countMax: number;
  /** By path; a Map keeps the order of insertion, so the first entry is the one unused for longest. */
  readonly #open = new Map<string, OpenObject>();

  constructor(disk: Disk, countMax: number) {
    this.#disk = disk;
    this.#countMax = countMax;
  }

  /** Undefined when there is no such file. */
  get(path: string): OpenObject | undefined {
    const known = this.#open.get(path);
    if (known !== undefined) {
      this.#open.delete(path);
      this.#open.set(path, known);
      return known;
    }
    const sizeBytes = this.#disk.sizeOf(path);
    if (sizeBytes === undefined) return undefined;
    let file: DiskFile;
    try {
      file = this.#disk.open(path, 'read');
    } catch (error) {
      if (hasCode(error, 'PATH_NOT_FOUND')) return undefined;
      throw error;
    }
    this.#evict(this.#countMax - 1);
    const opened = { file, sizeBytes };
    this.#open.set(path, opened);
    return opened;
  }

  forget(path: string): void {
    this.#open.get(path)?.file.close();
    this.#open.delete(path);
  }

  closeAll(): void {
    this.#evict(0);
  }

  #evict(keep: number): void {
    for (const path of this.#open.keys()) {
      if (this.#open.size <= keep) return;
      this.forget(path);
    }
  }
}
