/** From a CSI capacity range to a size that the volumedriver has: whole clusters, never past the caller's limit. */
import type { CapacityRange } from '../api/generated/csi.ts';
import { invalid } from '../csi/validate.ts';
import { VolumeError } from '../volumes/errors.ts';

export const clusterBytes = 4096;
const mebibyte = 1024 * 1024;
/** Every supported filesystem but xfs (300 MiB) fits. */
export const volumeBytesMin = mebibyte;
/** What a volume gets when neither a size nor a source is named. */
export const volumeBytesDefault = 10 * 1024 * mebibyte;

/** Zero means unset. */
export interface SizeRange {
  readonly requiredBytes: number;
  readonly limitBytes: number;
}

/** INVALID_ARGUMENT for a range that no size can meet. */
export function parseRange(range: CapacityRange | undefined): SizeRange {
  const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
  if (requiredBytes < 0) throw invalid('capacity_range.required_bytes', 'it must not be negative');
  if (limitBytes < 0) throw invalid('capacity_range.limit_bytes', 'it must not be negative');
  if (limitBytes > 0 && requiredBytes > limitBytes) {
    throw invalid('capacity_range', 'required_bytes must not be more than limit_bytes');
  }
  return { requiredBytes, limitBytes };
}

/** The size of a new volume. OUT_OF_RANGE when none fits. `sourceBytes`: the size of what it starts from. */
export function chooseSize(range: SizeRange, sourceBytes: number | undefined): number {
  const { requiredBytes, limitBytes } = range;
  if (requiredBytes > 0) {
    const sizeBytes = Math.max(roundUp(requiredBytes), volumeBytesMin);
    if (sourceBytes !== undefined && sizeBytes < sourceBytes) {
      throw outOfRange(
        `${requiredBytes} bytes are required and the source has ${sourceBytes}: a volume cannot be ` +
          'smaller than its source',
      );
    }
    return withinLimit(sizeBytes, limitBytes);
  }
  if (sourceBytes !== undefined) return withinLimit(sourceBytes, limitBytes);
  if (limitBytes === 0) return volumeBytesDefault;
  const sizeBytes = Math.min(volumeBytesDefault, roundDown(limitBytes));
  if (sizeBytes >= volumeBytesMin) return sizeBytes;
  throw outOfRange(`the limit is ${limitBytes} bytes and volumes have at least ${volumeBytesMin}`);
}

/** The size that a volume grows to; its own size when that is enough. OUT_OF_RANGE when it would have to shrink. */
export function chooseGrownSize(range: SizeRange, nowBytes: number): number {
  if (range.limitBytes > 0 && nowBytes > range.limitBytes) {
    throw outOfRange(
      `the volume has ${nowBytes} bytes, the limit is ${range.limitBytes}, and volumes never shrink`,
    );
  }
  if (range.requiredBytes <= nowBytes) return nowBytes;
  return withinLimit(roundUp(range.requiredBytes), range.limitBytes);
}

/** Whether a volume of this size is what the range asks for. */
export function isWithin(range: SizeRange, sizeBytes: number): boolean {
  if (sizeBytes < range.requiredBytes) return false;
  return range.limitBytes === 0 || sizeBytes <= range.limitBytes;
}

function withinLimit(sizeBytes: number, limitBytes: number): number {
  if (!Number.isSafeInteger(sizeBytes)) throw outOfRange('the size is too large');
  if (limitBytes === 0 || sizeBytes <= limitBytes) return sizeBytes;
  throw outOfRange(
    `the smallest possible size is ${sizeBytes} bytes and the limit is ${limitBytes}`,
  );
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / clusterBytes) * clusterBytes;
}

function roundDown(bytes: number): number {
  return Math.floor(bytes / clusterBytes) * clusterBytes;
}

function outOfRange(why: string): VolumeError {
  return new VolumeError('OUT_OF_RANGE', `capacity_range: ${why}`);
}
