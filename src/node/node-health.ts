/**
 * NodeGetVolumeHealth and NodeGetStorageHealth. Both take no lock, and their every step is bounded: what hangs is what
 * they are asked about. Neither touches a filesystem.
 */
import {
  StorageHealthErrorType,
  type NodeGetStorageHealthResponse,
  type NodeGetStorageHealthResponse_StorageBackendHealth,
  type NodeGetVolumeHealthResponse,
} from '../api/generated/csi.ts';
import { describeError } from '../base/logger.ts';
import {
  haltedProblem,
  problemOfError,
  volumeHealth,
  type VolumeProblem,
} from '../csi/volume-health.ts';
import type { Device, DeviceService } from '../volumes/device-service.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import type { Capacity } from '../volumes/volume.ts';
import { isReadOnlyFilesystem, isShutDown, type MountEntry } from './mountinfo.ts';
import type { StageRecord } from './stage-records.ts';
import { findDevice, type NodeParts } from './stage-volume.ts';
import { within } from './time-limit.ts';

const askMs = 5_000;
/** Of all space: less is worth a warning. */
const nearlyFullShare = 0.05;

/** VOLUME_NOT_FOUND for a volume that neither this node nor the volumedriver has. */
export async function getVolumeHealth(
  parts: NodeParts,
  volumeId: string,
): Promise<NodeGetVolumeHealthResponse> {
  const record = await parts.records.load(volumeId);
  const device = await deviceOf(parts, volumeId);
  const stored = await storedProblem(parts.volumes, volumeId);
  if (record === undefined && device === undefined && stored?.reason === 'VolumeMissing') {
    throw new VolumeError('VOLUME_NOT_FOUND', `health of volume ${volumeId}: ${stored.message}`);
  }
  const mount =
    record?.use.kind === 'mount' ? (await parts.mounts.at(record.stagingPath)).at(-1) : undefined;
  const problems = [
    deviceProblem(device, record),
    record === undefined ? undefined : mountProblem(record, mount),
    stored,
  ];
  return {
    volumeHealth: volumeHealth(
      volumeId,
      problems.filter((one) => one !== undefined),
    ),
  };
}

/** Undefined: none. An error: the attacher cannot tell. */
async function deviceOf(
  { devices }: NodeParts,
  volumeId: string,
): Promise<Device | Error | undefined> {
  try {
    return await within(askMs, `find device of ${volumeId}`, findDevice(devices, volumeId));
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

export function deviceProblem(
  device: Device | Error | undefined,
  record: StageRecord | undefined,
): VolumeProblem | undefined {
  if (device instanceof Error) {
    return { reason: 'AttacherUnreachable', message: describeError(device) };
  }
  if (device === undefined) {
    if (record === undefined) return undefined;
    return { reason: 'DeviceMissing', message: 'the device is gone' };
  }
  if (device.state === 'attached') return undefined;
  const reason = device.state === 'waiting' ? 'DeviceWaiting' : 'DeviceBroken';
  return { reason, message: `the device is ${device.state}: ${device.reason}` };
}

export function mountProblem(
  record: StageRecord,
  mount: MountEntry | undefined,
): VolumeProblem | undefined {
  if (record.use.kind === 'block' || mount === undefined) return undefined;
  if (isShutDown(mount)) {
    return { reason: 'FilesystemShutDown', message: 'the filesystem shut down after an error' };
  }
  if (record.readOnly || !isReadOnlyFilesystem(mount)) return undefined;
  return {
    reason: 'FilesystemReadOnly',
    message: 'the filesystem became read-only after an error',
  };
}

async function storedProblem(
  volumes: VolumeService,
  volumeId: string,
): Promise<VolumeProblem | undefined> {
  try {
    const volume = await within(askMs, `find volume ${volumeId}`, volumes.getVolume(volumeId));
    if (volume.id === volumeId) return haltedProblem(volume);
    return { reason: 'VolumeMissing', message: `no volume has the id ${volumeId}` };
  } catch (error) {
    const problem = problemOfError(error);
    if (problem === undefined) throw error;
    return problem;
  }
}

type StorageProblem = Omit<NodeGetStorageHealthResponse_StorageBackendHealth, 'volumeCapability'>;

/** Of this node's volumedriver, its disk, and its attacher. */
export async function getStorageHealth({
  volumes,
  devices,
}: {
  volumes: Pick<VolumeService, 'capacity'>;
  devices: Pick<DeviceService, 'listDevices'>;
}): Promise<NodeGetStorageHealthResponse> {
  const problems = await Promise.all([storageProblem(volumes), attacherProblem(devices)]);
  return {
    backendHealth: problems
      .filter((one) => one !== undefined)
      .map((one) => ({ ...one, volumeCapability: undefined })),
  };
}

async function storageProblem(
  volumes: Pick<VolumeService, 'capacity'>,
): Promise<StorageProblem | undefined> {
  try {
    return spaceProblem(await within(askMs, 'ask the volumedriver', volumes.capacity()));
  } catch (error) {
    return unreachable('VolumedriverUnreachable', error);
  }
}

/** The reserve counts as used. */
export function spaceProblem({ availableBytes, totalBytes }: Capacity): StorageProblem | undefined {
  if (availableBytes > totalBytes * nearlyFullShare) return undefined;
  const status = StorageHealthErrorType.STORAGE_DEGRADED;
  if (availableBytes <= 0) {
    const message =
      'the disk of the volumes is full: new data is refused until something is deleted';
    return { status, reason: 'DiskFull', message };
  }
  const message = `the disk of the volumes has ${availableBytes} of ${totalBytes} bytes left`;
  return { status, reason: 'DiskNearlyFull', message };
}

async function attacherProblem(
  devices: Pick<DeviceService, 'listDevices'>,
): Promise<StorageProblem | undefined> {
  try {
    await within(askMs, 'ask the attacher', devices.listDevices());
    return undefined;
  } catch (error) {
    return unreachable('AttacherUnreachable', error);
  }
}

function unreachable(reason: string, error: unknown): StorageProblem {
  if (!hasCode(error, 'UNAVAILABLE') && !hasCode(error, 'SHUTTING_DOWN')) throw error;
  return {
    status: StorageHealthErrorType.STORAGE_UNREACHABLE,
    reason,
    message: describeError(error),
  };
}
