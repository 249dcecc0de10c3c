/**
 * Reads clusters of objects wherever they are: in local files (the open SCO, sealed ones on their way to the backend,
 * and the backend's own files where it is a directory here), else by ranged reads from the store through a bounded RAM
 * cache. It returns bytes as they are; whoever holds the map's checksum verifies them.
 */
import { VolumeError } from '../volumes/errors.ts';
import type { Disk, DiskFile } from './disk/disk.ts';
import { clusterBytes } from './format/constants.ts';
import { formatObjectId } from './format/location.ts';
import { keys } from './keys.ts';
import { ReadMemory } from './read-memory.ts';
import type { ObjectStore } from './store/object-store.ts';

/** Unit of reads from the store and of its cache. */
const windowClusters = 16;
const windowBytes = windowClusters * clusterBytes;
const openFilesMax = 256;

export interface ObjectReaderOptions {
  disk: Disk;
  store: ObjectStore;
  /** Bytes of RAM for what was read from a store without local files. */
  cacheBytes: number;
}

export class ObjectReader {
  /** What is read goes there. */
  readonly memory = new ReadMemory();
  readonly #disk: Disk;
  readonly #store: ObjectStore;
  readonly #cacheWindowsMax: number;
  /** Files that the engine itself writes or has not given away yet; their owners close them. */
  readonly #local = new Map<number, DiskFile>();
  /** The store's own files, least recently used first. */
  readonly #storeFiles = new Map<number, DiskFile>();
  readonly #cache = new Map<string, Buffer>();
  readonly #loading = new Map<string, Promise<Buffer>>();

  constructor(options: ObjectReaderOptions) {
    this.#disk = options.disk;
    this.#store = options.store;
    this.#cacheWindowsMax = Math.max(1, Math.floor(options.cacheBytes / windowBytes));
  }

  addLocal(objectId: number, file: DiskFile): void {
    this.#local.set(objectId, file);
  }

  removeLocal(objectId: number): void {
    this.#local.delete(objectId);
  }

  /** Forgets an object that was deleted. */
  forget(objectId: number): void {
    this.#storeFiles.get(objectId)?.close();
    this.#storeFiles.delete(objectId);
    for (const key of this.#cache.keys()) {
      if (key.startsWith(`${objectId}.`)) this.#cache.delete(key);
    }
  }

  /**
   * Fills `into` (whole clusters) from cluster `index` of the object: at once and true when the bytes are in memory,
   * else by a promise. UNAVAILABLE, or ObjectGone when the object no longer exists.
   */
  read(objectId: number, index: number, into: Uint8Array): true | Promise<void> {
    const file = this.#local.get(objectId) ?? this.#storeFile(objectId);
    if (file !== undefined) {
      if (file.readCached(into, index * clusterBytes)) return true;
      return this.#readFile(file, objectId, index, into);
    }
    return this.#readFromStore(objectId, index, into);
  }

  /** Brings clusters nearer; harmless when they are near already. */
  async prefetch(objectId: number, index: number, count: number): Promise<void> {
    if (this.#local.has(objectId)) return;
    const file = this.#storeFile(objectId);
    if (file !== undefined) {
      await file.read(Buffer.allocUnsafe(count * clusterBytes), index * clusterBytes);
      return;
    }
    const first = Math.floor(index / windowClusters);
    const last = Math.floor((index + count - 1) / windowClusters);
    const windows = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    await Promise.all(windows.map(async (window) => await this.#window(objectId, window)));
  }

  close(): void {
    for (const file of this.#storeFiles.values()) file.close();
    this.#storeFiles.clear();
    this.#cache.clear();
  }

  #storeFile(objectId: number): DiskFile | undefined {
    const open = this.#storeFiles.get(objectId);
    if (open !== undefined) {
      this.#storeFiles.delete(objectId);
      this.#storeFiles.set(objectId, open);
      return open;
    }
    const path = this.#store.localFile(keys.object(objectId));
    if (path === undefined) return undefined;
    if (this.#disk.sizeOf(path) === undefined) throw gone(objectId);
    const file = this.#disk.open(path, 'read');
    this.#storeFiles.set(objectId, file);
    this.#evictFiles();
    return file;
  }

  #evictFiles(): void {
    if (this.#storeFiles.size <= openFilesMax) return;
    const oldest = this.#storeFiles.entries().next().value;
    if (oldest === undefined) return;
    this.#storeFiles.delete(oldest[0]);
    oldest[1].close(); // reads off the thread that are under way keep it open
  }

  async #readFile(
    file: DiskFile,
    objectId: number,
    index: number,
    into: Uint8Array,
  ): Promise<void> {
    const count = await file.read(into, index * clusterBytes);
    if (count < into.length) {
      throw new VolumeError(
        'CORRUPT',
        `reading object ${formatObjectId(objectId)}: it is cut short`,
      );
    }
  }

  #readFromStore(objectId: number, index: number, into: Uint8Array): true | Promise<void> {
    const missing = this.#copyCached(objectId, index, into);
    if (missing.length === 0) return true;
    return Promise.all(missing.map(async (window) => await this.#window(objectId, window))).then(
      (windows) => {
        windows.forEach((bytes, i) => {
          copyWindow(bytes, missing[i] ?? 0, { objectId, index, into });
        });
      },
    );
  }

  /** Copies what the RAM cache has; returns the windows that it lacks. */
  #copyCached(objectId: number, index: number, into: Uint8Array): number[] {
    const missing: number[] = [];
    const last = Math.floor((index + into.length / clusterBytes - 1) / windowClusters);
    for (let window = Math.floor(index / windowClusters); window <= last; window++) {
      const key = `${objectId}.${window}`;
      const bytes = this.#cache.get(key);
      if (bytes === undefined) {
        missing.push(window);
        continue;
      }
      this.#cache.delete(key);
      this.#cache.set(key, bytes);
      copyWindow(bytes, window, { objectId, index, into });
    }
    return missing;
  }

  async #window(objectId: number, window: number): Promise<Buffer> {
    const key = `${objectId}.${window}`;
    const cached = this.#cache.get(key);
    if (cached !== undefined) return cached;
    const running = this.#loading.get(key);
    if (running !== undefined) return await running;
    const load = this.#loadWindow(objectId, window, key);
    this.#loading.set(key, load);
    try {
      return await load;
    } finally {
      this.#loading.delete(key);
    }
  }

  async #loadWindow(objectId: number, window: number, key: string): Promise<Buffer> {
    const range = { offset: window * windowBytes, length: windowBytes };
    const bytes = await this.#store.get(keys.object(objectId), range);
    if (bytes === undefined) throw gone(objectId);
    this.#cache.set(key, bytes);
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size <= this.#cacheWindowsMax) break;
      this.#cache.delete(oldest);
    }
    return bytes;
  }
}

interface ObjectRead {
  objectId: number;
  index: number;
  into: Uint8Array;
}

/** Copies the part of a window that belongs to the read of `into` from cluster `index`. */
function copyWindow(bytes: Buffer, window: number, { objectId, index, into }: ObjectRead): void {
  const from = Math.max(index, window * windowClusters);
  const to = Math.min(index + into.length / clusterBytes, (window + 1) * windowClusters);
  const start = (from - window * windowClusters) * clusterBytes;
  const end = (to - window * windowClusters) * clusterBytes;
  if (bytes.length < end) {
    throw new VolumeError('CORRUPT', `reading object ${formatObjectId(objectId)}: it is cut short`);
  }
  into.set(bytes.subarray(start, end), (from - index) * clusterBytes);
}

/** The object was deleted: whoever found it in a map looks there again. */
export class ObjectGone extends VolumeError {
  constructor(objectId: number) {
    super('CORRUPT', `reading object ${formatObjectId(objectId)}: it does not exist`);
  }
}

function gone(objectId: number): ObjectGone {
  return new ObjectGone(objectId);
}
