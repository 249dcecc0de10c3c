/**
 * Writes what the kernel still holds of a staged volume to its device, before anything is taken apart: unmounting and
 * detaching use force after their time limits, and much dirty memory over a slow but working device must not meet it.
 */
import { readFile } from 'node:fs/promises';
import { hasErrno } from '../base/errno.ts';
import type { Device } from '../volumes/device-service.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import { deviceNumber } from './device-numbers.ts';
import type { NodeParts } from './stage-volume.ts';

/** One call's share of the work: less than the two minutes after which kubelet gives a call up. */
const writeBackMs = 60_000;

/**
 * UNAVAILABLE when it takes longer and the device makes progress: the caller repeats. A device that does not take
 * anything, or fails, is left to the force that follows.
 */
export async function writeBack(
  parts: NodeParts,
  { volumeId, device, path }: { volumeId: string; device: Device; path: string },
): Promise<void> {
  if (device.state !== 'attached' || device.readOnly) return;
  const number = await deviceNumber(device.path);
  const mounted = (await parts.mounts.at(path)).some((mount) => mount.device === number);
  const args = mounted ? ['--file-system', path] : [device.path];
  const before = await sectorsWritten(number);
  try {
    await parts.run('sync', args, { timeoutMs: writeBackMs });
  } catch (error) {
    if (hasCode(error, 'UNAVAILABLE') && (await sectorsWritten(number)) !== before) {
      throw new VolumeError(
        'UNAVAILABLE',
        `unstage volume ${volumeId}: what was written is still on its way to the device`,
        { cause: error },
      );
    }
    parts.logger.warn('volume not written back before its device goes', { volumeId, error });
  }
}

/** The kernel's block layer statistics (Documentation/block/stat), seventh field; null without a device. */
async function sectorsWritten(number: string): Promise<string | null> {
  try {
    const text = await readFile(`/sys/dev/block/${number}/stat`, 'utf8');
    return text.trim().split(/\s+/)[6] ?? null;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return null;
    throw error;
  }
}
