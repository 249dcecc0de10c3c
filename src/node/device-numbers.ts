/** The number of a block device as mountinfo shows it. */
import { stat } from 'node:fs/promises';
import { describeError } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';

/** "major:minor" of a device file. PATH_NOT_FOUND when there is no block device at the path. */
export async function deviceNumber(path: string): Promise<string> {
  try {
    const { rdev } = await stat(path, { bigint: true });
    if (rdev !== 0n) return formatDeviceNumber(rdev);
  } catch (error) {
    throw new VolumeError('PATH_NOT_FOUND', `look at device ${path}: ${describeError(error)}`, {
      cause: error,
    });
  }
  throw new VolumeError('PATH_NOT_FOUND', `look at device ${path}: it is not a device`);
}

/** glibc's layout of dev_t (makedev(3)): the halves of both numbers are interleaved. */
export function formatDeviceNumber(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}
