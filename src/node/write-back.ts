/**
 * Writes what the kernel still holds of a staged volume to its device, before anything is taken apart: unmounting and
 * detaching use force after their time limits, and much dirty memory over a slow but working device must not meet it.
 */
import { readFile } from 'node:fs/promises';
import { hasErrno } from '../base/errno.ts';
import type { Device, DeviceState } from '../volumes/device-service.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import { deviceNumber } from './device-numbers.ts';
import { findDevice, type NodeParts } from './stage-volume.ts';

/** One call's share of the work: less than the two minutes after which kubelet gives a call up. */
const writeBackMs = 60_000;

/** stuck: the device took nothing in all the time that it was given. */
export type WriteBack = 'written' | 'failed' | 'stuck';

/**
 * UNAVAILABLE when it takes longer and the device makes progress: the caller repeats. A device that does not take
 * anything, or fails, is left to the force that follows.
 */
export async function writeBack(
  parts: NodeParts,
  { volumeId, device, path }: { volumeId: string; device: Device; path: string },
): Promise<WriteBack> {
  if (device.state !== 'attached' || device.readOnly) return 'written';
  const number = await deviceNumber(device.path);
  const mounted = (await parts.mounts.at(path)).some((mount) => mount.device === number);
  const args = mounted ? ['--file-system', path] : [device.path];
  const before = await sectorsWritten(number);
  try {
    await parts.run('sync', args, { timeoutMs: writeBackMs });
    return 'written';
  } catch (error) {
    if (hasCode(error, 'UNAVAILABLE') && (await sectorsWritten(number)) !== before) {
      throw new VolumeError(
        'UNAVAILABLE',
        `unstage volume ${volumeId}: what was written is still on its way to the device`,
        { cause: error },
      );
    }
    parts.logger.warn('volume not written back before its device goes', { volumeId, error });
    return hasCode(error, 'UNAVAILABLE') ? 'stuck' : 'failed';
  }
}

/**
 * The state of a volume's device for somebody who has to unmount `path` while a process uses it: `broken`, too, where
 * the device takes nothing although it says that it works. UNAVAILABLE as writeBack.
 */
export async function stateForUnmount(
  parts: NodeParts,
  { volumeId, path }: { volumeId: string; path: string },
): Promise<DeviceState> {
  const device = await findDevice(parts.devices, volumeId);
  if (device === undefined) return 'attached'; // nothing is known against what is mounted
  const stuck = (await writeBack(parts, { volumeId, device, path })) === 'stuck';
  const state = stuck ? 'broken' : device.state;
  if (state === 'broken') {
    const { reason } = device;
    parts.logger.warn('unmounting under a process, whose I/O fails', { volumeId, path, reason });
  }
  return state;
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
