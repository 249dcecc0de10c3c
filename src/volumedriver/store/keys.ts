/** What a key may be, the same for every store, so that volumes can move between backends. */
import { VolumeError } from '../../volumes/errors.ts';
import type { ByteRange } from './object-store.ts';

const keyCharsMax = 900;
const segmentCharsMax = 255;
const segmentPattern = /^[A-Za-z0-9._-]+$/;

/** Names that a directory tree or a URL gives another meaning. */
const reservedSegments = new Set(['.', '..']);

/** INVALID_ARGUMENT unless the key has the form that object-store.ts describes. */
export function checkKey(key: string): void {
  const valid =
    key.length <= keyCharsMax &&
    key.split('/').every((segment) => {
      return (
        segment.length <= segmentCharsMax &&
        segmentPattern.test(segment) &&
        !reservedSegments.has(segment)
      );
    });
  if (!valid)
    throw new VolumeError('INVALID_ARGUMENT', `object key ${JSON.stringify(key)}: not valid`);
}

/** The part of an object of `sizeBytes` that a range names, clipped at its end. */
export function clipRange(range: ByteRange | undefined, sizeBytes: number): ByteRange {
  if (range === undefined) return { offset: 0, length: sizeBytes };
  const { offset, length } = range;
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
    throw new VolumeError('INVALID_ARGUMENT', `range ${offset}+${length}: not valid`);
  }
  const start = Math.min(offset, sizeBytes);
  return { offset: start, length: Math.min(length, sizeBytes - start) };
}

export const listLimitDefault = 1000;
