import type { DiskFile } from '../disk/disk.ts';

export interface PagePoolOptions {
  /** Bytes of page frames (`--map-memory`); at least 64 frames are used. */
  readonly memoryBytes: number;
  /** Creates the spill file, when the first dirty page must leave memory. */
  readonly openSpill: () => DiskFile;
}

export class PagePool {
  constructor(options: PagePoolOptions) {
    void options;
  }

  /** Closes the spill file. No map may use the pool any more. */
  close(): void {
    throw new Error('not yet');
  }
}
