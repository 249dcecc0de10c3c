/**
 * The embedded backend: a directory tree with one file per object, the key's segments being its path below the root.
 * Invariants:
 * - A name in the tree always stands for a complete file whose content is durable: objects are written and synced
 *   under a temporary name and get their own by link(2), which refuses a name that is taken. Never by rename, which
 *   would replace it silently.
 * - A put is acknowledged after the object's directory, and every directory above it, is durable. That holds for a
 *   refused putIfAbsent too: whoever learns that a key is taken may rely on it.
 * - A key is never also the beginning ("KEY/...") of another.
 * Deletes are not synced: after a power cut a deleted object may be back.
 *
 * Temporary files lie in "+tmp", which no key can name. Several processes may share the root if each has its own
 * `instance`; an opener removes what an earlier one of the same instance left.
 */
import { basename, dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Random } from '../../base/random.ts';
import { hasCode, VolumeError } from '../../volumes/errors.ts';
import type { Capacity } from '../../volumes/volume.ts';
import { errnoName } from '../disk/disk-errors.ts';
import type { Disk, DiskFile } from '../disk/disk.ts';
import { DurableDirectories } from './durable-directories.ts';
import { checkKey, clipRange, listLimitDefault } from './keys.ts';
import { walkObjects } from './list-tree.ts';
import type { ByteRange, ObjectInfo, ObjectStore } from './object-store.ts';
import { OpenFiles } from './open-files.ts';

export interface FileStoreOptions {
  readonly disk: Disk;
  /** Absolute path; made if it doesn't exist. */
  readonly root: string;
  /** For temporary names that no other process has. */
  readonly random: Random;
  /** Names this opener among those that share the root. */
  readonly instance?: string;
  readonly openFilesMax?: number;
}

const temporaryDirectory = '+tmp';
/** Why a directory above the root can't be synced, where that is no reason for concern. */
const notOurs = new Set(['EACCES', 'EPERM', 'EROFS', 'EINVAL']);
/** How often a put makes its directory again when deletes prune it at the same time. */
const linkAttemptsMax = 16;
/** A longer read goes off the thread even if it is cached: copying it would hold up everything else. */
const cachedReadBytesMax = 256 * 1024;
/** Copied and written in pieces of this size, between which other work runs. */
const pieceBytes = 1024 * 1024;

export class FileStore implements ObjectStore {
  readonly description: string;
  readonly #disk: Disk;
  readonly #root: string;
  readonly #temporary: string;
  readonly #token: string;
  readonly #directories: DurableDirectories;
  readonly #openFiles: OpenFiles;
  #temporaryCount = 0;

  private constructor(options: FileStoreOptions) {
    const { disk, root, random, instance = 'local', openFilesMax = 128 } = options;
    checkKey(instance);
    this.description = `file:${root}`;
    this.#disk = disk;
    this.#root = root;
    this.#temporary = join(root, temporaryDirectory, basename(instance));
    this.#token = random.bytes(8).toString('hex');
    this.#directories = new DurableDirectories(disk, root);
    this.#openFiles = new OpenFiles(disk, openFilesMax);
  }

  /** Makes the root if need be and removes leftover temporary files. */
  static async open(options: FileStoreOptions): Promise<FileStore> {
    const store = new FileStore(options);
    const { disk, root } = options;
    await makeRoot(disk, root);
    disk.makeDirectory(store.#temporary);
    for (const name of disk.list(store.#temporary)) disk.remove(join(store.#temporary, name));
    return store;
  }

  async putIfAbsent(key: string, data: readonly Uint8Array[]): Promise<boolean> {
    checkKey(key);
    this.#directories.check();
    // Most refusals cost no write: the name is there already.
    if (this.#disk.sizeOf(this.#path(key)) !== undefined) return await this.#confirm(key);
    return await this.#withTemporary(
      (file) => writeAll(file, data),
      (temporary) => this.#link(temporary, key),
    );
  }

  async put(key: string, data: readonly Uint8Array[]): Promise<void> {
    if (await this.putIfAbsent(key, data)) return;
    this.#checkSame(
      key,
      data.reduce((sum, part) => sum + part.byteLength, 0),
    );
  }

  async confirm(key: string): Promise<void> {
    checkKey(key);
    this.#directories.check();
    await this.#makeDurable(key);
  }

  async putFile(key: string, path: string): Promise<void> {
    checkKey(key);
    this.#directories.check();
    const sizeBytes = this.#disk.sizeOf(path);
    if (sizeBytes === undefined) {
      throw new VolumeError('PATH_NOT_FOUND', `put ${key}: no file ${path}`);
    }
    let created: boolean;
    try {
      created = await this.#link(path, key);
    } catch (error) {
      if (!hasCode(error, 'NOT_CAPABLE')) throw error;
      created = await this.#putCopy(key, path);
    }
    if (!created) this.#checkSame(key, sizeBytes);
  }

  async get(key: string, range?: ByteRange): Promise<Buffer | undefined> {
    checkKey(key);
    const object = this.#openFiles.get(this.#path(key));
    if (object === undefined) return undefined;
    const { offset, length } = clipRange(range, object.sizeBytes);
    const buffer = Buffer.allocUnsafe(length);
    if (length === 0) return buffer;
    if (length <= cachedReadBytesMax && object.file.readCached(buffer, offset)) return buffer;
    const count = await object.file.read(buffer, offset);
    if (count < length) {
      throw new VolumeError('CORRUPT', `get ${key}: the object ends at byte ${offset + count}`);
    }
    return buffer;
  }

  list(
    prefix: string,
    options: { startAfter?: string; limit?: number } = {},
  ): Promise<ObjectInfo[]> {
    return new Promise((resolve) => {
      const { startAfter = '', limit = listLimitDefault } = options;
      const found: ObjectInfo[] = [];
      const walk = { disk: this.#disk, root: this.#root, prefix, startAfter };
      for (const object of walkObjects(walk)) {
        if (found.length >= limit) break;
        found.push(object);
      }
      resolve(found);
    });
  }

  delete(key: string): Promise<void> {
    return new Promise((resolve) => {
      checkKey(key);
      const path = this.#path(key);
      this.#openFiles.forget(path);
      this.#disk.remove(path);
      this.#directories.prune(dirname(path));
      resolve();
    });
  }

  localFile(key: string): string {
    checkKey(key);
    return this.#path(key);
  }

  capacity(): Promise<Capacity> {
    return this.#disk.capacity(this.#root);
  }

  /** Closes its files. Calls still running may fail. */
  close(): void {
    this.#openFiles.closeAll();
  }

  #path(key: string): string {
    return join(this.#root, key);
  }

  #putCopy(key: string, path: string): Promise<boolean> {
    return this.#withTemporary(
      (file) => copyFile(this.#disk, path, file),
      (temporary) => this.#link(temporary, key),
    );
  }

  async #withTemporary(
    fill: (file: DiskFile) => Promise<void>,
    use: (path: string) => Promise<boolean>,
  ): Promise<boolean> {
    const path = join(this.#temporary, `${this.#token}-${this.#temporaryCount++}`);
    const file = this.#disk.create(path);
    try {
      await fill(file);
      await file.sync();
      return await use(path);
    } finally {
      file.close();
      this.#removeTemporary(path);
    }
  }

  #removeTemporary(path: string): void {
    try {
      this.#disk.remove(path);
    } catch {
      // The put has succeeded or failed for itself; the next open of the store removes the file.
    }
  }

  /** Gives the file its name in the tree, durably; false when the name was taken. */
  async #link(from: string, key: string): Promise<boolean> {
    const path = this.#path(key);
    const directory = dirname(path);
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#directories.ensure(directory);
        const created = this.#disk.link(from, path);
        await this.#makeDurable(key);
        return created;
      } catch (error) {
        // A delete has pruned the directory since it was made: make it again.
        const pruned = hasCode(error, 'PATH_NOT_FOUND') && this.#disk.sizeOf(from) !== undefined;
        if (!pruned || attempt === linkAttemptsMax) throw error;
      }
    }
  }

  /** For a key that is taken: false, once that is durable. */
  async #confirm(key: string): Promise<boolean> {
    await this.#makeDurable(key);
    return false;
  }

  /** After the object got its name. Asks for the directory again: it may be another one than before the link. */
  async #makeDurable(key: string): Promise<void> {
    const directory = dirname(this.#path(key));
    try {
      await Promise.all([this.#directories.ensure(directory), this.#directories.sync(directory)]);
    } catch (error) {
      if (hasCode(error, 'PATH_NOT_FOUND')) return; // deleted since, with its directory
      if (hasCode(error, 'UNAVAILABLE')) throw error;
      throw new VolumeError('UNAVAILABLE', `put ${key}: it may not be durable`, { cause: error });
    }
  }

  #checkSame(key: string, sizeBytes: number): void {
    const stored = this.#disk.sizeOf(this.#path(key));
    if (stored === undefined || stored === sizeBytes) return;
    throw new VolumeError('CORRUPT', `put ${key}: the key holds another object`);
  }
}

/**
 * Makes the root and what is missing above it, and syncs every directory above it: an earlier process may have made
 * any of them and died before it synced. One that this process may not even read was made by somebody else.
 */
async function makeRoot(disk: Disk, root: string): Promise<void> {
  disk.makeDirectory(root);
  for (let path = root; path !== dirname(path); path = dirname(path)) {
    try {
      await disk.syncDirectory(dirname(path));
    } catch (error) {
      const cause = error instanceof VolumeError ? error.cause : undefined;
      if (!notOurs.has(errnoName(cause) ?? '')) throw error;
    }
  }
}

async function writeAll(file: DiskFile, data: readonly Uint8Array[]): Promise<void> {
  let position = 0;
  let piece: Uint8Array[] = [];
  let length = 0;
  for (const part of data) {
    for (let offset = 0; offset < part.byteLength; offset += pieceBytes) {
      const bytes = part.subarray(offset, offset + pieceBytes);
      piece.push(bytes);
      length += bytes.byteLength;
      if (length < pieceBytes) continue;
      file.write(piece, position);
      position += length;
      piece = [];
      length = 0;
      await nextTurn();
    }
  }
  file.write(piece, position);
}

async function copyFile(disk: Disk, from: string, to: DiskFile): Promise<void> {
  const source = disk.open(from, 'read');
  try {
    const buffer = Buffer.allocUnsafe(pieceBytes);
    for (let position = 0; ;) {
      const count = await source.read(buffer, position);
      if (count === 0) return;
      to.write([buffer.subarray(0, count)], position);
      position += count;
    }
  } finally {
    source.close();
  }
}
