/**
 * Where dirty pages go that don't fit into memory: one file for the pool, a page at slot × 4 KiB. It is disposable:
 * after a restart its contents mean nothing, so it is never synced. Pages are verified when they come back.
 */
import { crc32 } from 'node:zlib';
import { VolumeError } from '../../volumes/errors.ts';
import type { DiskFile } from '../disk/disk.ts';
import { clusterBytes } from '../format/constants.ts';

export class SpillFile {
  readonly #open: () => DiskFile;
  #file: DiskFile | undefined;
  #empty = true;

  constructor(open: () => DiskFile) {
    this.#open = open;
  }

  /** Returns the page's checksum, started with `nonce`. Throws what the disk throws, OUT_OF_SPACE above all. */
  write(slot: number, page: Uint8Array, nonce: number): number {
    this.#file ??= this.#open();
    this.#empty = false;
    this.#file.write([page], slot * clusterBytes);
    return crc32(page, nonce);
  }

  /** Throws CORRUPT when the page is not the one that was written with this nonce. */
  read(slot: number, into: Uint8Array, nonce: number, check: number): void {
    const got = this.#file?.readSync(into, slot * clusterBytes) ?? 0;
    if (got === clusterBytes && crc32(into, nonce) === check) return;
    const path = this.#file?.path ?? 'the spill file';
    throw new VolumeError(
      'CORRUPT',
      `reading a map page back from ${path}: page ${slot} is not what was written`,
    );
  }

  /** Gives the disk space back; to be called when no page is left in the file. */
  clear(): void {
    if (this.#empty) return;
    this.#file?.truncate(0);
    this.#empty = true;
  }

  close(): void {
    this.#file?.close();
    this.#file = undefined;
  }
}
