/**
 * Archives of images, kept between runs. An archive's name has a digest of all that it is made from: what bears that
 * name is complete and needs no second making. One process at a time makes something.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rm, stat, utimes, type FileHandle } from 'node:fs/promises';
import { constants, homedir } from 'node:os';
import { join } from 'node:path';
import { lockFile } from '../../../src/base/ffi.ts';
import { until } from '../support/waiting.ts';

/** Of one image; older ones go. Two, so that going back to a former state of the sources costs nothing. */
const archivesKept = 2;
/** Another process may make all of them from nothing. */
const lockLimitMs = 15 * 60_000;

export function cacheFolder(...names: readonly string[]): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  return join(cache, 'volumedriver-csi', ...names);
}

export function shortDigest(...inputs: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, 12);
}

export class ImageCache {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Runs `work` while no other process does. */
  async locked<T>(work: () => Promise<T>): Promise<T> {
    await mkdir(this.folder, { recursive: true });
    const file = await open(join(this.folder, '.lock'), 'w');
    try {
      await takeLock(file);
      await this.#removeUnfinished();
      return await work();
    } finally {
      await file.close();
    }
  }

  /**
   * The path of NAME-DIGEST.tar. `make` writes it, and may use an empty folder meanwhile, which is removed after it.
   */
  async archive(
    name: string,
    digest: string,
    make: (archive: string, folder: string) => Promise<void>,
  ): Promise<string> {
    const archive = join(this.folder, `${name}-${digest}.tar`);
    if (await exists(archive)) {
      const now = new Date();
      await utimes(archive, now, now);
      return archive;
    }
    const folder = join(this.folder, `.new-${name}-${randomUUID()}`);
    await mkdir(folder, { recursive: true });
    try {
      await make(archive, folder);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    await this.#removeOld(name, archive);
    return archive;
  }

  /** Of processes that were killed: whoever has the lock is the only one who makes something. */
  async #removeUnfinished(): Promise<void> {
    for (const entry of await readdir(this.folder)) {
      if (!entry.startsWith('.new-') && !entry.endsWith('.new')) continue;
      await rm(join(this.folder, entry), { recursive: true, force: true });
    }
  }

  async #removeOld(name: string, newest: string): Promise<void> {
    const pattern = new RegExp(`^${name}-[0-9a-f]{12}\\.tar$`);
    const others: { path: string; usedMs: number }[] = [];
    for (const entry of await readdir(this.folder)) {
      const path = join(this.folder, entry);
      if (!pattern.test(entry) || path === newest) continue;
      others.push({ path, usedMs: (await stat(path)).mtimeMs });
    }
    others.sort((left, right) => right.usedMs - left.usedMs);
    for (const { path } of others.slice(archivesKept - 1)) await rm(path, { force: true });
  }
}

async function takeLock(file: FileHandle): Promise<void> {
  const attempt = (): Promise<true | undefined> => {
    const result = lockFile(file.fd);
    if (result === 0) return Promise.resolve(true);
    if (result === -constants.errno.EAGAIN) return Promise.resolve(undefined);
    return Promise.reject(new Error(`lock the images: flock failed with errno ${-result}`));
  };
  await until('another process to finish its images', attempt, { limitMs: lockLimitMs });
}

export async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
