/** A backend in memory, for tests and simulations. It outlives engines, and is gone with the process. */
import { VolumeError } from '../../volumes/errors.ts';
import type { Capacity } from '../../volumes/volume.ts';
import type { Disk } from '../disk/disk.ts';
import { checkKey, clipRange, listLimitDefault } from './keys.ts';
import type { ByteRange, ObjectInfo, ObjectStore } from './object-store.ts';

export class MemoryStore implements ObjectStore {
  readonly description = 'memory:';
  readonly #disk: Disk | undefined;
  readonly #objects = new Map<string, Buffer>();

  /** `disk` is where putFile finds its files. */
  constructor(disk?: Disk) {
    this.#disk = disk;
  }

  putIfAbsent(key: string, data: readonly Uint8Array[]): Promise<boolean> {
    return attempt(() => {
      checkKey(key);
      if (this.#objects.has(key)) return false;
      this.#objects.set(key, Buffer.concat(data));
      return true;
    });
  }

  async put(key: string, data: readonly Uint8Array[]): Promise<void> {
    if (await this.putIfAbsent(key, data)) return;
    const sizeBytes = data.reduce((sum, part) => sum + part.byteLength, 0);
    if (this.#objects.get(key)?.length !== sizeBytes) {
      throw new VolumeError('CORRUPT', `put ${key}: the key holds another object`);
    }
  }

  async putFile(key: string, path: string): Promise<void> {
    checkKey(key);
    if (this.#disk === undefined) {
      throw new VolumeError('NOT_CAPABLE', `put ${key}: this store was given no disk`);
    }
    const file = this.#disk.open(path, 'read');
    try {
      const data = Buffer.alloc(file.sizeBytes());
      await file.read(data, 0);
      await this.put(key, [data]);
    } finally {
      file.close();
    }
  }

  get(key: string, range?: ByteRange): Promise<Buffer | undefined> {
    return attempt(() => {
      checkKey(key);
      const object = this.#objects.get(key);
      if (object === undefined) return undefined;
      const { offset, length } = clipRange(range, object.length);
      return Buffer.from(object.subarray(offset, offset + length));
    });
  }

  list(
    prefix: string,
    options: { startAfter?: string; limit?: number } = {},
  ): Promise<ObjectInfo[]> {
    const { startAfter = '', limit = listLimitDefault } = options;
    return attempt(() =>
      [...this.#objects]
        .filter(([key]) => key.startsWith(prefix) && key > startAfter)
        .map(([key, object]) => ({ key, sizeBytes: object.length }))
        .sort((a, b) => (a.key < b.key ? -1 : 1))
        .slice(0, limit),
    );
  }

  delete(key: string): Promise<void> {
    return attempt(() => {
      checkKey(key);
      this.#objects.delete(key);
    });
  }

  localFile(): undefined {
    return undefined;
  }

  capacity(): Promise<Capacity | null> {
    return Promise.resolve(null);
  }
}

/** Runs at once, as a call to a real store takes effect at some one moment; a throw becomes a rejection. */
function attempt<T>(run: () => T): Promise<T> {
  return new Promise((resolve) => {
    resolve(run());
  });
}
