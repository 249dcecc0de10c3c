/**
 * Decides what to do with a device before it is mounted, and is the only place that makes filesystems. The rule
 * (the design's promise 8): a volume is formatted only if the volumedriver knows that it was never written, or
 * that an earlier mkfs was interrupted. What a probe finds, or fails to find, never leads to formatting.
 */
import type { Logger } from '../base/logger.ts';
import {
  filesystemTypeDefault,
  filesystemTypes,
  isFilesystemType,
  type FilesystemType,
} from '../csi/volume-capability.ts';
import type { RunCommand } from '../volumes/command.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { probeDevice, type Filesystem } from './filesystems.ts';

export interface PrepareOptions {
  readonly volumes: VolumeService;
  readonly filesystems: Readonly<Record<FilesystemType, Filesystem>>;
  readonly run: RunCommand;
  readonly logger: Logger;
}

export interface UnpreparedDevice {
  readonly volumeId: string;
  readonly generation: number;
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Empty: whatever is there, and ext4 on a fresh volume. */
  readonly fsType: string;
}

const syncMs = 5 * 60_000;

/** Makes the device ready to be mounted and returns its filesystem. NOT_CAPABLE when that would need formatting. */
export async function prepareFilesystem(
  options: PrepareOptions,
  device: UnpreparedDevice,
): Promise<FilesystemType> {
  const volume = await options.volumes.getVolume(device.volumeId);
  if (!volume.written || volume.formatting !== null) return await format(options, device);
  const found = await findFilesystem(options, device);
  if (!device.readOnly) {
    await options.filesystems[found].check(device.path);
    await options.filesystems[found].growUnmounted(device.path, device.sizeBytes);
  }
  return found;
}

async function format(options: PrepareOptions, device: UnpreparedDevice): Promise<FilesystemType> {
  const { volumeId, generation, path } = device;
  const fsType = device.fsType === '' ? filesystemTypeDefault : device.fsType;
  if (!isFilesystemType(fsType)) throw unsupported(volumeId, fsType);
  if (device.readOnly) {
    throw new VolumeError(
      'NOT_CAPABLE',
      `stage volume ${volumeId}: it has no filesystem yet and is published read-only; publish it read-write once`,
    );
  }
  const filesystem = options.filesystems[fsType];
  if (device.sizeBytes < filesystem.bytesMin) {
    throw new VolumeError(
      'OUT_OF_RANGE',
      `format volume ${volumeId}: ${fsType} needs at least ${filesystem.bytesMin} bytes and the volume has ` +
        `${device.sizeBytes}; expand it or use another filesystem`,
    );
  }
  options.logger.info('formatting volume', { volumeId, fsType });
  await options.volumes.beginFormatting(volumeId, generation, fsType);
  await filesystem.format(path);
  // The mark is cleared only when the filesystem has left the kernel's cache.
  await options.run('sync', [path], { timeoutMs: syncMs });
  await options.volumes.endFormatting(volumeId, generation);
  return fsType;
}

async function findFilesystem(
  options: PrepareOptions,
  device: UnpreparedDevice,
): Promise<FilesystemType> {
  const { volumeId, fsType } = device;
  const found = await probeDevice(options.run, device.path);
  if (found === undefined) {
    throw new VolumeError(
      'NOT_CAPABLE',
      `stage volume ${volumeId}: it holds data, but no filesystem is recognized on it; it is never formatted ` +
        'again, so use it as a block volume, or restore a snapshot',
    );
  }
  if (fsType !== '' && found !== fsType) {
    throw new VolumeError(
      'NOT_CAPABLE',
      `stage volume ${volumeId}: it holds ${found}, and ${fsType} was asked for; it is never formatted again`,
    );
  }
  if (!isFilesystemType(found)) throw unsupported(volumeId, found);
  return found;
}

function unsupported(volumeId: string, found: string): VolumeError {
  return new VolumeError(
    'NOT_CAPABLE',
    `stage volume ${volumeId}: ${found} cannot be mounted, only ${filesystemTypes.join(' and ')}`,
  );
}
