/**
 * NodeStageVolume and NodeUnstageVolume: a granted export becomes a device, and the device of a mount volume a
 * filesystem at the staging path. Both may be called in any state that an earlier call, a crash, a reboot or a
 * newer grant left behind: they look at mountinfo and the attacher, and trust the record only to tell what was meant.
 */
import { mkdir } from 'node:fs/promises';
import type { Logger } from '../base/logger.ts';
import { isReadOnlyMode, type FilesystemType, type VolumeUse } from '../csi/volume-capability.ts';
import type { RunCommand } from '../volumes/command.ts';
import type { Device, DeviceService } from '../volumes/device-service.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { deviceNumber } from './device-numbers.ts';
import type { Filesystem } from './filesystems.ts';
import type { MountEntry } from './mountinfo.ts';
import type { Mounts } from './mounts.ts';
import { prepareFilesystem } from './prepare-filesystem.ts';
import { isSameUse, recordUse, type StageRecord, type StageRecords } from './stage-records.ts';
import { within } from './time-limit.ts';
import {
  adviceForUnmount,
  checkEnded,
  drain,
  lookUp,
  type Drained,
  type DrainLimits,
} from './write-back.ts';

export interface NodeParts {
  readonly volumes: VolumeService;
  readonly devices: DeviceService;
  readonly mounts: Mounts;
  readonly filesystems: Readonly<Record<FilesystemType, Filesystem>>;
  readonly records: StageRecords;
  readonly run: RunCommand;
  readonly logger: Logger;
  readonly drainLimits: DrainLimits;
}

export interface StageRequest {
  readonly volumeId: string;
  readonly stagingPath: string;
  readonly generation: number;
  readonly use: VolumeUse;
  /** For a mount volume whose capability names no filesystem. */
  readonly fsTypeWanted: string;
}

/** A device, and what it is attached for. */
interface Attachment {
  readonly device: Device;
  readonly readOnly: boolean;
}

const syncVolumeMs = 30_000;

export async function stageVolume(parts: NodeParts, request: StageRequest): Promise<void> {
  const { volumes, records } = parts;
  const { volumeId, generation } = request;
  const volume = await volumes.getVolume(volumeId);
  if (volume.id !== volumeId) throw notFound(volumeId);
  const address = await volumes.getExport({ kind: 'granted', volume: volumeId, generation });
  const readOnly = address.readOnly || isUsedReadOnly(request.use);
  if (request.use.kind === 'block' && !readOnly && volume.formatting !== null) {
    // An interrupted mkfs would be repeated later, over what the user of the block device writes now.
    await volumes.endFormatting(volumeId, generation);
  }

  const record = await records.load(volumeId);
  if (record !== undefined && record.generation === generation) {
    if (await isInPlace(parts, record, request)) return;
  }
  const attachment = await attach(parts, { request, record, uri: address.uri, readOnly });
  const fsType =
    request.use.kind === 'block' ? null : await mountOrDetach(parts, request, attachment);
  await records.save({
    formatVersion: 1,
    volumeId,
    stagingPath: request.stagingPath,
    generation,
    readOnly,
    use: recordUse(request.use),
    fsType,
    targets: record?.targets ?? [],
  });
}

/** By access mode, or by mount options, such as those of a storage class, whose last word counts (mount(8)). */
function isUsedReadOnly(use: VolumeUse): boolean {
  if (isReadOnlyMode(use.accessMode)) return true;
  if (use.kind === 'block') return false;
  const options = use.mountFlags.flatMap((flag) => flag.split(','));
  return options.findLast((option) => option === 'ro' || option === 'rw') === 'ro';
}

/**
 * Whether the stage that the record tells of still stands and is the one that is asked for. False when it has to
 * be made (again); rejects when it stands and contradicts the request, or does not answer.
 */
async function isInPlace(
  parts: NodeParts,
  record: StageRecord,
  request: StageRequest,
): Promise<boolean> {
  const { volumeId, stagingPath } = request;
  const device = await findDevice(parts.devices, volumeId);
  if (device === undefined || device.state === 'broken') return false;
  if (device.state === 'waiting') {
    throw new VolumeError(
      'UNAVAILABLE',
      `stage volume ${volumeId}: its device waits for the volumedriver: ${device.reason}`,
    );
  }
  if (record.use.kind === 'mount') {
    const mount = (await parts.mounts.at(record.stagingPath)).at(-1);
    if (mount === undefined || mount.device !== (await deviceNumber(device.path))) return false;
    const health = await parts.mounts.health(record.stagingPath);
    if (health === 'hung') throw hung(volumeId, record.stagingPath);
    if (health === 'broken') return false;
  }
  if (record.stagingPath !== stagingPath) {
    throw new VolumeError(
      'VOLUME_IN_USE',
      `stage volume ${volumeId}: it is staged at ${record.stagingPath}`,
    );
  }
  if (!isSameUse(record.use, recordUse(request.use))) {
    throw new VolumeError(
      'ALREADY_EXISTS',
      `stage volume ${volumeId}: it is staged at this path with another capability`,
    );
  }
  return true;
}

interface AttachPlan {
  readonly request: StageRequest;
  readonly record: StageRecord | undefined;
  readonly uri: string;
  readonly readOnly: boolean;
}

/** Gets the device of this very export, and removes one of an older grant, another mode, or that is broken. */
async function attach(parts: NodeParts, plan: AttachPlan): Promise<Attachment> {
  const { request, record, uri, readOnly } = plan;
  const { volumeId } = request;
  const outdated = record !== undefined && record.generation !== request.generation;
  const present = await findDevice(parts.devices, volumeId);
  if (present !== undefined && (outdated || present.state === 'broken')) {
    await release(parts, plan, outdated ? 'it belongs to an older grant' : 'it is broken');
  }
  let device: Device;
  try {
    device = await parts.devices.attach({ volumeId, uri, readOnly });
  } catch (error) {
    if (!hasCode(error, 'ALREADY_EXISTS')) throw error;
    await release(parts, plan, 'it shows another export or mode');
    device = await parts.devices.attach({ volumeId, uri, readOnly });
  }
  if (device.state === 'attached') return { device, readOnly };
  throw new VolumeError(
    'UNAVAILABLE',
    `stage volume ${volumeId}: its device ${device.path} is ${device.state}: ${device.reason}`,
  );
}

async function release(parts: NodeParts, plan: AttachPlan, reason: string): Promise<void> {
  const { request, record } = plan;
  const { volumeId } = request;
  // A pod may open the device file later, when its number belongs to another volume. (A mounted filesystem keeps
  // the number taken.)
  if (record?.use.kind === 'block') await checkUnpublished(parts, record, 'stage');
  parts.logger.warn('replacing a device', { volumeId, reason });
  const path = record?.stagingPath ?? request.stagingPath;
  const drained = await drain(parts, { volumeId, path });
  await unmountStaging(parts, { ...request, drained }, record);
  await parts.devices.detach(volumeId);
}

/**
 * After these a caller repeats the call, or unstages. Any other error says that nothing was staged, and kubelet then
 * never calls NodeUnstageVolume.
 */
const unfinishedCodes = [
  'UNAVAILABLE',
  'OPERATION_PENDING',
  'SHUTTING_DOWN',
  'OUT_OF_SPACE',
  'LIMIT_REACHED',
  'MOVED',
] as const;

async function mountOrDetach(
  parts: NodeParts,
  request: StageRequest,
  attachment: Attachment,
): Promise<FilesystemType> {
  try {
    return await mountAtStagingPath(parts, request, attachment);
  } catch (error) {
    if (!unfinishedCodes.some((code) => hasCode(error, code))) {
      await detachUnused(parts, request.volumeId, attachment.device);
    }
    throw error;
  }
}

/** Never rejects: the error that led here is the one to tell. */
async function detachUnused(parts: NodeParts, volumeId: string, device: Device): Promise<void> {
  try {
    const mounted = await parts.mounts.ofDevice(await deviceNumber(device.path));
    if (mounted.length === 0) await parts.devices.detach(volumeId);
  } catch (error) {
    parts.logger.warn('device of a failed stage stays', { volumeId, error });
  }
}

async function mountAtStagingPath(
  parts: NodeParts,
  request: StageRequest,
  attachment: Attachment,
): Promise<FilesystemType> {
  const { mounts } = parts;
  const { stagingPath: path, volumeId } = request;
  const number = await deviceNumber(attachment.device.path);
  const present = await mounts.at(path);
  const top = present.at(-1);
  if (top !== undefined) {
    const adopted = await adoptMount(parts, request, { top, number });
    if (adopted !== undefined) return adopted;
    parts.logger.warn('replacing a stale mount', { volumeId, path });
    await mounts.unmountAll(path, adviceForUnmount(parts, { volumeId, path }));
  }
  await mkdir(path, { recursive: true, mode: 0o750 });
  const [elsewhere] = await mounts.ofDevice(number);
  const fsType =
    elsewhere === undefined
      ? await prepare(parts, request, attachment)
      : mountedType(request, elsewhere);
  await mountDevice(parts, { request, attachment, fsType });
  if (elsewhere === undefined && !attachment.readOnly) {
    await grow(parts, { path, device: attachment.device, fsType });
  }
  return fsType;
}

/** A mount that a call made which died before its record was written, or whose record was lost. */
async function adoptMount(
  parts: NodeParts,
  request: StageRequest,
  { top, number }: { top: MountEntry; number: string },
): Promise<FilesystemType | undefined> {
  if (top.device !== number) return undefined;
  const health = await parts.mounts.health(request.stagingPath);
  if (health === 'hung') throw hung(request.volumeId, request.stagingPath);
  return health === 'usable' ? mountedType(request, top) : undefined;
}

function mountedType(request: StageRequest, mount: MountEntry): FilesystemType {
  const { volumeId, fsTypeWanted } = request;
  const { fsType } = mount;
  if ((fsType === 'ext4' || fsType === 'xfs') && ['', fsType].includes(fsTypeWanted)) return fsType;
  throw new VolumeError(
    'ALREADY_EXISTS',
    `stage volume ${volumeId}: it is mounted at ${mount.mountPoint} as ${fsType}`,
  );
}

async function prepare(
  parts: NodeParts,
  request: StageRequest,
  { device, readOnly }: Attachment,
): Promise<FilesystemType> {
  return await prepareFilesystem(parts, {
    volumeId: request.volumeId,
    generation: request.generation,
    path: device.path,
    sizeBytes: device.sizeBytes,
    readOnly,
    fsType: request.fsTypeWanted,
  });
}

async function mountDevice(
  parts: NodeParts,
  mount: { request: StageRequest; attachment: Attachment; fsType: FilesystemType },
): Promise<void> {
  const { request, attachment, fsType } = mount;
  const { device, readOnly } = attachment;
  const { mounts, logger } = parts;
  const filesystem = parts.filesystems[fsType];
  const path = request.stagingPath;
  const flags = request.use.kind === 'mount' ? request.use.mountFlags : [];
  const options = [...new Set([...filesystem.mountOptions, ...flags])];
  const mountWith = (more: readonly string[]): Promise<void> =>
    mounts.mountDevice({ device: device.path, path, fsType, options: [...options, ...more] });
  if (readOnly) {
    try {
      await mountWith(['ro']);
    } catch (error) {
      if (!hasCode(error, 'INTERNAL')) throw error;
      // A snapshot of a filesystem in use has a journal to replay, which a read-only device cannot take.
      logger.warn('mounting without the journal', { volumeId: request.volumeId, error });
      await mountWith(['ro', filesystem.withoutReplayOption]);
    }
    return;
  }
  await mountWith([]);
}

/** A restored or cloned volume may be larger than the filesystem that it was made from. */
async function grow(
  parts: NodeParts,
  { path, device, fsType }: { path: string; device: Device; fsType: FilesystemType },
): Promise<void> {
  try {
    const mounted = { device: device.path, path, sizeBytes: device.sizeBytes };
    await parts.filesystems[fsType].growMounted(mounted);
  } catch (error) {
    // A repeated call would adopt the mount as it is.
    await parts.mounts.unmountAll(path);
    throw error;
  }
}

export async function unstageVolume(
  parts: NodeParts,
  { volumeId, stagingPath }: { volumeId: string; stagingPath: string },
): Promise<void> {
  const { records, devices } = parts;
  const record = await records.load(volumeId);
  if (record !== undefined) await checkUnpublished(parts, record, 'unstage');
  const path = record?.stagingPath ?? stagingPath;
  const drained = await drain(parts, { volumeId, path });
  await unmountStaging(parts, { volumeId, stagingPath, drained }, record);
  const device = await lookUp(parts, volumeId);
  if (device !== 'none') {
    await checkEnded(parts, { volumeId, device, drained });
    await syncVolume(parts, volumeId);
    await devices.detach(volumeId);
  }
  await records.remove(volumeId);
}

async function unmountStaging(
  parts: NodeParts,
  request: { volumeId: string; stagingPath: string; drained: Drained },
  record: StageRecord | undefined,
): Promise<void> {
  const { volumeId, stagingPath, drained } = request;
  const paths = new Set([stagingPath, record?.stagingPath ?? stagingPath]);
  for (const path of paths) {
    await parts.mounts.unmountAll(path, adviceForUnmount(parts, { volumeId, path, drained }));
  }
}

async function checkUnpublished(
  parts: NodeParts,
  record: StageRecord,
  what: string,
): Promise<void> {
  for (const target of record.targets) {
    if ((await parts.mounts.at(target.path)).length === 0) continue;
    throw new VolumeError(
      'VOLUME_IN_USE',
      `${what} volume ${record.volumeId}: it is still published at ${target.path}`,
    );
  }
}

/**
 * Unmounting wrote everything to the volume; this makes it durable. What was acknowledged is safe in the
 * volumedriver's log anyway, so one that cannot answer must not keep a pod from leaving the node.
 */
async function syncVolume(parts: NodeParts, volumeId: string): Promise<void> {
  try {
    await within(syncVolumeMs, `sync volume ${volumeId}`, parts.volumes.syncVolume(volumeId));
  } catch (error) {
    if (hasCode(error, 'OPERATION_PENDING')) throw error;
    parts.logger.warn('volume not synced before its device goes', { volumeId, error });
  }
}

/** Undefined when the volume has no device on this node. */
export async function findDevice(
  devices: DeviceService,
  volumeId: string,
): Promise<Device | undefined> {
  try {
    return await devices.getDevice(volumeId);
  } catch (error) {
    if (hasCode(error, 'PATH_NOT_FOUND')) return undefined;
    throw error;
  }
}

function notFound(volumeId: string): VolumeError {
  return new VolumeError('VOLUME_NOT_FOUND', `stage volume ${volumeId}: there is no such volume`);
}

function hung(volumeId: string, path: string): VolumeError {
  return new VolumeError(
    'UNAVAILABLE',
    `stage volume ${volumeId}: its filesystem at ${path} does not answer`,
  );
}
