/**
 * Reads bytes through a map: look up, fetch, verify. Every cluster that comes from a disk or the backend is checked
 * against the checksum in the map before a byte of it is returned; a mismatch is CORRUPT, never data.
 */
import { VolumeError, hasCode } from '../volumes/errors.ts';
import { clusterChecksum } from './format/checksum.ts';
import { clusterBytes } from './format/constants.ts';
import { formatObjectId } from './format/location.ts';
import type { MappedRun } from './map/volume-map.ts';
import type { ObjectReader } from './object-reader.ts';
import type { MapView } from './volume-image.ts';

/** Zeroes for holes: shared, so nobody may write into it. */
const zeroes = Buffer.alloc(1024 * 1024);
/**
 * An object may be deleted between the look-up and the read, once the head has moved on: then the map is asked again.
 */
const attemptsMax = 4;

/** `length` bytes from `offset`. CORRUPT, UNAVAILABLE. */
export async function readBytes(
  view: MapView,
  reader: ObjectReader,
  offset: number,
  length: number,
): Promise<Buffer[]> {
  if (length === 0) return [];
  const first = Math.floor(offset / clusterBytes);
  const count = Math.floor((offset + length - 1) / clusterBytes) - first + 1;
  for (let attempt = 1; ; attempt++) {
    const found = view.lookup(first, count);
    const runs = found instanceof Promise ? await found : found;
    try {
      const fetched = fetchRuns(runs, reader);
      const buffers = fetched instanceof Promise ? await fetched : fetched;
      return trim(buffers, offset - first * clusterBytes, length);
    } catch (error) {
      if (!hasCode(error, 'CORRUPT') || attempt >= attemptsMax) throw error;
      for (const run of runs) if (run.objectId !== 0) reader.forget(run.objectId);
    }
  }
}

function fetchRuns(runs: MappedRun[], reader: ObjectReader): Buffer[] | Promise<Buffer[]> {
  const buffers: Buffer[] = [];
  let waits: Promise<void>[] | undefined;
  for (const run of runs) {
    if (run.objectId === 0) {
      pushZeroes(buffers, run.clusterCount * clusterBytes);
      continue;
    }
    const bytes = reader.memory.take(run.clusterCount * clusterBytes);
    buffers.push(bytes);
    try {
      const read = reader.read(run.objectId, run.index, bytes);
      if (read === true) verify(run, bytes);
      else {
        (waits ??= []).push(
          read.then(() => {
            verify(run, bytes);
          }),
        );
      }
    } catch (error) {
      for (const wait of waits ?? []) wait.catch(() => undefined); // the first failure is told
      throw error;
    }
  }
  if (waits === undefined) return buffers;
  return Promise.all(waits).then(() => buffers);
}

function verify(run: MappedRun, bytes: Buffer): void {
  for (let i = 0; i < run.clusterCount; i++) {
    const cluster = bytes.subarray(i * clusterBytes, (i + 1) * clusterBytes);
    if (clusterChecksum(cluster, run.objectId, run.index + i) === run.checksums[i]) continue;
    throw new VolumeError(
      'CORRUPT',
      `reading cluster ${run.index + i} of object ${formatObjectId(run.objectId)}: its checksum is wrong`,
    );
  }
}

function pushZeroes(buffers: Buffer[], length: number): void {
  for (let left = length; left > 0; left -= zeroes.length) {
    buffers.push(left >= zeroes.length ? zeroes : zeroes.subarray(0, left));
  }
}

/** Cuts `skip` bytes off the front and everything behind `length`. */
function trim(buffers: Buffer[], skip: number, length: number): Buffer[] {
  const first = buffers[0];
  if (first === undefined) return buffers;
  if (skip === 0 && buffers.length === 1 && first.length === length) return buffers;
  const trimmed: Buffer[] = [];
  let left = length;
  let from = skip;
  for (const buffer of buffers) {
    const part = buffer.subarray(from, Math.min(buffer.length, from + left));
    from = Math.max(0, from - buffer.length);
    if (part.length === 0) continue;
    trimmed.push(part);
    left -= part.length;
    if (left === 0) break;
  }
  return trimmed;
}
