/**
 * What fresh page cache costs here. A log writes into new pages where a flat file overwrites pages that are there; on a
 * virtual machine whose host takes free memory back (free page reporting, a balloon), each new page is first fetched
 * from the host, which may cost far more than the write. Without these two figures, those of the servers that write say
 * little.
 */
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const probeMiB = 256;

/** Milliseconds for 1 MiB written to a new file, and over what was just written. */
export interface MemoryCost {
  freshMs: number;
  overwriteMs: number;
}

export function memoryCost(directory: string): MemoryCost {
  const path = join(directory, 'probe');
  const file = openSync(path, 'w');
  try {
    return { freshMs: writing(file), overwriteMs: writing(file) };
  } finally {
    closeSync(file);
    rmSync(path);
  }
}

function writing(file: number): number {
  const bytes = Buffer.alloc(2 ** 20, 7);
  const startMs = performance.now();
  for (let n = 0; n < probeMiB; n++) writeSync(file, bytes, 0, bytes.length, n * 2 ** 20);
  return (performance.now() - startMs) / probeMiB;
}
