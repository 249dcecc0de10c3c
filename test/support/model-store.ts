/**
 * One process's view of a backend in memory that outlives it: files are read from the disk that the process sees, and
 * when the process has died no call of its has any effect any more.
 */
import { VolumeError } from '../../src/volumes/errors.ts';
import type { Capacity } from '../../src/volumes/volume.ts';
import type { MemoryStore } from '../../src/volumedriver/store/memory-store.ts';
import type {
  ByteRange,
  ObjectInfo,
  ObjectStore,
} from '../../src/volumedriver/store/object-store.ts';
import type { SimulatedDisk } from './simulated-disk.ts';

export class LifeStore implements ObjectStore {
  readonly description = 'memory:';
  readonly #memory: MemoryStore;
  readonly #disk: SimulatedDisk;
  readonly #onTravel: () => void;

  /** `onTravel` is called before each call, and before each answer to a change; it may crash the disk. */
  constructor(memory: MemoryStore, disk: SimulatedDisk, onTravel: () => void = () => undefined) {
    this.#memory = memory;
    this.#disk = disk;
    this.#onTravel = onTravel;
  }

  async putIfAbsent(key: string, data: readonly Uint8Array[]): Promise<boolean> {
    await this.#travel();
    const created = await this.#memory.putIfAbsent(key, data);
    await this.#travel();
    return created;
  }

  async put(key: string, data: readonly Uint8Array[]): Promise<void> {
    await this.#travel();
    await this.#memory.put(key, data);
    await this.#travel();
  }

  async putFile(key: string, path: string): Promise<void> {
    const file = this.#disk.open(path, 'read');
    try {
      const data = Buffer.alloc(file.sizeBytes());
      await file.read(data, 0);
      await this.put(key, [data]);
    } finally {
      file.close();
    }
  }

  async get(key: string, range?: ByteRange): Promise<Buffer | undefined> {
    await this.#travel();
    return await this.#memory.get(key, range);
  }

  async list(
    prefix: string,
    options?: { startAfter?: string; limit?: number },
  ): Promise<ObjectInfo[]> {
    await this.#travel();
    return await this.#memory.list(prefix, options);
  }

  async delete(key: string): Promise<void> {
    await this.#travel();
    await this.#memory.delete(key);
    await this.#travel();
  }

  localFile(): undefined {
    return undefined;
  }

  capacity(): Promise<Capacity | null> {
    return Promise.resolve(null);
  }

  async #travel(): Promise<void> {
    await Promise.resolve();
    if (!this.#disk.crashed) this.#onTravel();
    if (this.#disk.crashed) throw new VolumeError('UNAVAILABLE', 'the process has died');
  }
}
