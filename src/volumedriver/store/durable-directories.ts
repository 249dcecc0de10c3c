/**
 * Directories of a FileStore whose own names are known to survive a power cut. The first use of a directory in a
 * process makes it if need be and syncs its parent, all the way up to the root: even one that exists already, since
 * a process that died may have made it without syncing. Concurrent syncs of one directory are shared.
 *
 * A failed directory sync is final: Linux may count the change as written afterwards, so that a later sync would
 * succeed without the name being durable. From then on nothing here succeeds any more.
 */
import { dirname } from 'node:path';
import { hasCode, VolumeError } from '../../volumes/errors.ts';
import type { Disk } from '../disk/disk.ts';
import { GroupSync } from '../disk/group-sync.ts';

export class DurableDirectories {
  readonly #disk: Disk;
  readonly #root: string;
  readonly #durable = new Map<string, Promise<void>>();
  readonly #syncs = new Map<string, GroupSync>();
  #failure: VolumeError | undefined;

  /** `root` exists. */
  constructor(disk: Disk, root: string) {
    this.#disk = disk;
    this.#root = root;
  }

  /** Resolves when the directory exists and its name is durable. PATH_NOT_FOUND when it was removed meanwhile. */
  ensure(directory: string): Promise<void> {
    if (directory === this.#root) return Promise.resolve();
    let durable = this.#durable.get(directory);
    if (durable === undefined) {
      durable = this.#make(directory);
      this.#durable.set(directory, durable);
      const made = durable;
      made.catch(() => {
        if (this.#durable.get(directory) === made) this.#durable.delete(directory);
      });
    }
    return durable;
  }

  /** Syncs the names in a directory. */
  async sync(directory: string): Promise<void> {
    this.check();
    let group = this.#syncs.get(directory);
    if (group === undefined) {
      group = new GroupSync(() => this.#disk.syncDirectory(directory));
      this.#syncs.set(directory, group);
    }
    try {
      await group.sync();
    } catch (error) {
      if (!hasCode(error, 'PATH_NOT_FOUND')) this.#fail(directory, error);
      throw error;
    } finally {
      if (group.idle && this.#syncs.get(directory) === group) this.#syncs.delete(directory);
    }
    this.check();
  }

  /** UNAVAILABLE once a directory sync has failed. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Removes a directory and its parents as far as they are empty, up to the root. */
  prune(directory: string): void {
    let path = directory;
    while (path !== this.#root) {
      try {
        this.#disk.remove(path);
      } catch {
        return; // not empty; and whatever else it may be, an empty directory does no harm
      }
      this.#durable.delete(path);
      path = dirname(path);
    }
  }

  async #make(directory: string): Promise<void> {
    this.check();
    this.#disk.makeDirectory(directory);
    const parent = dirname(directory);
    await Promise.all([this.ensure(parent), this.sync(parent)]);
  }

  #fail(directory: string, cause: unknown): void {
    this.#failure ??= new VolumeError(
      'UNAVAILABLE',
      `store ${this.#root}: sync of ${directory} failed, so nothing more is stored until it is opened again`,
      { cause },
    );
  }
}
