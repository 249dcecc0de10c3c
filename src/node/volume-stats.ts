/**
 * NodeGetVolumeStats and NodeExpandVolume, for a volume that is staged on this node. Statistics take no lock and
 * their every step is bounded: a hung filesystem must not hide that it hangs.
 */
import { resolve } from 'node:path';
import type {
  NodeExpandVolumeResponse,
  NodeGetVolumeStatsResponse,
  VolumeCondition,
  VolumeUsage,
} from '../api/generated/csi.ts';
import { VolumeUsage_Unit } from '../api/generated/csi.ts';
import { describeError } from '../base/logger.ts';
import type { Device } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import { deviceProblem, mountProblem } from './node-health.ts';
import type { StageRecord } from './stage-records.ts';
import { findDevice, type NodeParts } from './stage-volume.ts';
import { within } from './time-limit.ts';

const attacherMs = 5_000;

/** PATH_NOT_FOUND when the volume is not mounted there. */
export async function volumeStats(
  parts: NodeParts,
  { volumeId, path }: { volumeId: string; path: string },
): Promise<NodeGetVolumeStatsResponse> {
  const record = await requireAtPath(parts, { volumeId, path, what: 'measure' });
  const device = await within(
    attacherMs,
    `find device of ${volumeId}`,
    findDevice(parts.devices, volumeId),
  );
  const mount = (await parts.mounts.at(path)).at(-1);
  // A block volume's staging path is an empty directory.
  const staged = record.use.kind === 'block' && isSamePath(path, record.stagingPath);
  if (mount === undefined && !staged) throw notAtPath(volumeId, path, 'measure');
  const unusable = deviceProblem(device, record)?.message;
  const abnormal = unusable ?? mountProblem(record, mount)?.message;
  if (record.use.kind === 'block') {
    return { usage: blockUsage(device), volumeCondition: condition(abnormal) };
  }
  // Asking a filesystem whose device does not answer would only leave another hung process behind.
  if (unusable !== undefined) {
    return { usage: [], volumeCondition: condition(abnormal) };
  }
  try {
    return { usage: await filesystemUsage(parts, path), volumeCondition: condition(abnormal) };
  } catch (error) {
    if (abnormal === undefined) throw error;
    return { usage: [], volumeCondition: condition(`${abnormal}; ${describeError(error)}`) };
  }
}

function condition(abnormal: string | undefined): VolumeCondition {
  return { abnormal: abnormal !== undefined, message: abnormal ?? 'the volume works' };
}

function blockUsage(device: Device | undefined): VolumeUsage[] {
  if (device === undefined) return [];
  const { sizeBytes } = device;
  return [{ unit: VolumeUsage_Unit.BYTES, total: sizeBytes, used: 0, available: 0 }];
}

async function filesystemUsage(parts: NodeParts, path: string): Promise<VolumeUsage[]> {
  const { bytes, inodes } = await parts.mounts.usage(path);
  return [
    { unit: VolumeUsage_Unit.BYTES, ...bytes },
    { unit: VolumeUsage_Unit.INODES, ...inodes },
  ];
}

export interface ExpandRequest {
  readonly volumeId: string;
  readonly path: string;
  /** Zero means unset. */
  readonly requiredBytes: number;
  readonly limitBytes: number;
}

/** Makes device and filesystem as large as the volume is. */
export async function expandVolume(
  parts: NodeParts,
  request: ExpandRequest,
): Promise<NodeExpandVolumeResponse> {
  const { volumeId, path, requiredBytes, limitBytes } = request;
  const record = await requireAtPath(parts, { volumeId, path, what: 'expand' });
  const { sizeBytes } = await parts.volumes.getVolume(volumeId);
  if (requiredBytes > sizeBytes) {
    throw outOfRange(request, `it has ${sizeBytes} bytes: expand it at the controller first`);
  }
  if (limitBytes > 0 && sizeBytes > limitBytes) {
    throw outOfRange(request, `it has ${sizeBytes} bytes, and it never shrinks`);
  }
  const device = await parts.devices.resize(volumeId, sizeBytes);
  if (record.fsType !== null && !record.readOnly) {
    await parts.filesystems[record.fsType].growMounted({
      device: device.path,
      path: record.stagingPath,
      sizeBytes: device.sizeBytes,
    });
  }
  return { capacityBytes: device.sizeBytes };
}

function outOfRange(request: ExpandRequest, why: string): VolumeError {
  return new VolumeError('OUT_OF_RANGE', `expand volume ${request.volumeId}: ${why}`);
}

interface Place {
  readonly volumeId: string;
  readonly path: string;
  readonly what: string;
}

async function requireAtPath(
  parts: NodeParts,
  { volumeId, path, what }: Place,
): Promise<StageRecord> {
  const record = await parts.records.load(volumeId);
  if (record === undefined) {
    throw new VolumeError(
      'VOLUME_NOT_FOUND',
      `${what} volume ${volumeId}: it is not staged on this node`,
    );
  }
  const paths = [record.stagingPath, ...record.targets.map((target) => target.path)];
  if (paths.some((known) => isSamePath(known, path))) return record;
  throw notAtPath(volumeId, path, what);
}

function isSamePath(left: string, right: string): boolean {
  return resolve(left) === resolve(right);
}

function notAtPath(volumeId: string, path: string, what: string): VolumeError {
  return new VolumeError('PATH_NOT_FOUND', `${what} volume ${volumeId}: it is not at ${path}`);
}
