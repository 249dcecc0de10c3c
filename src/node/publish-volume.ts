/**
 * NodePublishVolume and NodeUnpublishVolume: what is staged becomes visible at a pod's path, as a bind mount of the
 * staging path, or of the device onto a file. A target is recorded before it is mounted, so that every mounted
 * target is known with its arguments; a recorded target without a mount counts for nothing.
 */
import { lstat, mkdir, open, rmdir, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { hasErrno } from '../base/errno.ts';
import { describeError } from '../base/logger.ts';
import { allowsSeveralTargets, isReadOnlyMode, type VolumeUse } from '../csi/volume-capability.ts';
import { VolumeError } from '../volumes/errors.ts';
import { deviceNumber } from './device-numbers.ts';
import { isReadOnlyFilesystem, type MountEntry } from './mountinfo.ts';
import { isSameUse, recordUse, type StageRecord, type TargetRecord } from './stage-records.ts';
import { findDevice, type NodeParts } from './stage-volume.ts';
import { adviceForUnmount } from './write-back.ts';

export interface PublishRequest {
  readonly volumeId: string;
  readonly stagingPath: string;
  readonly targetPath: string;
  readonly use: VolumeUse;
  readonly readOnly: boolean;
}

/** What to bind, and how to recognize it in mountinfo. */
interface Source {
  readonly path: string;
  readonly isAt: (mount: MountEntry) => boolean;
}

export async function publishVolume(parts: NodeParts, request: PublishRequest): Promise<void> {
  const { volumeId, targetPath } = request;
  const record = await requireStaged(parts, request);
  const wanted: TargetRecord = {
    path: targetPath,
    readOnly: request.readOnly || isReadOnlyMode(request.use.accessMode),
    use: recordUse(request.use),
  };
  checkReadOnly(record, wanted);
  const source = await findSource(parts, record);
  await checkOtherTargets(parts, { record, request });

  const present = await parts.mounts.at(targetPath);
  const known = record.targets.find((target) => target.path === targetPath);
  const top = present.at(-1);
  if (top !== undefined) {
    if (await isStanding(parts, { top, source, known, wanted })) return;
    const advice = adviceForUnmount(parts, { volumeId, path: targetPath });
    await parts.mounts.unmountAll(targetPath, advice);
  }
  const others = record.targets.filter((target) => target.path !== targetPath);
  await parts.records.save({ ...record, targets: [...others, wanted] });
  await makeTarget(volumeId, targetPath, request.use.kind);
  await parts.mounts.bind({ source: source.path, path: targetPath, readOnly: wanted.readOnly });
}

async function requireStaged(parts: NodeParts, request: PublishRequest): Promise<StageRecord> {
  const { volumeId, stagingPath, use } = request;
  const record = await parts.records.load(volumeId);
  if (record === undefined) {
    // Tells a wrong id from a volume that was not staged.
    await parts.volumes.getVolume(volumeId);
    throw notStaged(volumeId, 'it is not staged on this node');
  }
  if (record.stagingPath !== stagingPath) {
    throw notStaged(volumeId, `it is staged at ${record.stagingPath}, not at ${stagingPath}`);
  }
  if (record.use.kind !== use.kind) {
    throw notStaged(volumeId, `it is staged as a ${record.use.kind} volume`);
  }
  if (use.kind === 'mount' && use.fsType !== '' && use.fsType !== record.fsType) {
    throw notStaged(volumeId, `it is staged with ${record.fsType}, not ${use.fsType}`);
  }
  return record;
}

/** Binding a device file read-only does not keep anyone from writing to the device. */
function checkReadOnly(record: StageRecord, wanted: TargetRecord): void {
  if (!wanted.readOnly || record.readOnly || record.use.kind === 'mount') return;
  throw notStaged(
    record.volumeId,
    'a block volume can be read-only only as a whole: publish it to the node read-only',
  );
}

async function findSource(parts: NodeParts, record: StageRecord): Promise<Source> {
  const { volumeId, stagingPath } = record;
  const device = await findDevice(parts.devices, volumeId);
  if (device === undefined || device.state === 'broken') {
    throw notStaged(volumeId, 'its device is gone or broken; stage it again');
  }
  if (device.state === 'waiting') {
    throw new VolumeError(
      'UNAVAILABLE',
      `publish volume ${volumeId}: its device waits for the volumedriver: ${device.reason}`,
    );
  }
  const number = await deviceNumber(device.path);
  if (record.use.kind === 'block') {
    const root = device.path.replace(/^\/dev/, '');
    return {
      path: device.path,
      // A bound device file shows up as a part of the filesystem that holds /dev.
      isAt: (mount) => mount.root === root && mount.fsType.includes('tmpfs'),
    };
  }
  const mount = (await parts.mounts.at(stagingPath)).at(-1);
  if (mount === undefined || mount.device !== number) {
    throw notStaged(volumeId, `nothing of it is mounted at ${stagingPath}; stage it again`);
  }
  const health = await parts.mounts.health(stagingPath);
  if (health === 'hung') {
    throw new VolumeError('UNAVAILABLE', `publish volume ${volumeId}: its filesystem hangs`);
  }
  if (health === 'broken') throw notStaged(volumeId, 'its filesystem is broken; stage it again');
  if (!record.readOnly && isReadOnlyFilesystem(mount)) {
    throw notStaged(
      volumeId,
      'its filesystem became read-only after an error; it is checked when it is staged again',
    );
  }
  return { path: stagingPath, isAt: (other) => other.device === number };
}

/** CSI, NodePublishVolume, second table: which access modes take more than one target on a node. */
async function checkOtherTargets(
  parts: NodeParts,
  { record, request }: { record: StageRecord; request: PublishRequest },
): Promise<void> {
  for (const target of record.targets) {
    if (target.path === request.targetPath) continue;
    const exclusive = [request.use.accessMode, target.use.accessMode].find(
      (mode) => !allowsSeveralTargets(mode as VolumeUse['accessMode']),
    );
    if (exclusive === undefined || (await parts.mounts.at(target.path)).length === 0) continue;
    throw new VolumeError(
      'VOLUME_IN_USE',
      `publish volume ${request.volumeId}: it is published at ${target.path}, and access mode ${exclusive} ` +
        'allows one path',
    );
  }
}

/** False when what is mounted there is a remnant; ALREADY_EXISTS when it is not what the call asks for. */
async function isStanding(
  parts: NodeParts,
  {
    top,
    source,
    known,
    wanted,
  }: {
    top: MountEntry;
    source: Source;
    known: TargetRecord | undefined;
    wanted: TargetRecord;
  },
): Promise<boolean> {
  const conflict = (why: string): VolumeError =>
    new VolumeError('ALREADY_EXISTS', `publish at ${wanted.path}: ${why}`);
  if (!source.isAt(top)) {
    const health = await parts.mounts.health(wanted.path);
    if (health === 'usable' && known === undefined) throw conflict('something else is mounted');
    return false;
  }
  if (known === undefined) return false;
  if (known.readOnly !== wanted.readOnly || !isSameUse(known.use, wanted.use)) {
    throw conflict('it is published there with other arguments');
  }
  // A crash between binding and setting the flag leaves it writable.
  return wanted.use.kind === 'block' || !wanted.readOnly || top.options.includes('ro');
}

/** A file to bind a device onto, a directory for a filesystem. What the wrong kind holds is never removed. */
async function makeTarget(volumeId: string, path: string, kind: VolumeUse['kind']): Promise<void> {
  try {
    if (kind === 'mount') {
      await mkdir(path, { recursive: true, mode: 0o750 });
      return;
    }
    await mkdir(dirname(path), { recursive: true, mode: 0o750 });
    await (await open(path, 'a', 0o660)).close();
  } catch (error) {
    const why = describeError(error);
    throw new VolumeError('INTERNAL', `publish volume ${volumeId}: make ${path}: ${why}`, {
      cause: error,
    });
  }
}

export async function unpublishVolume(
  parts: NodeParts,
  { volumeId, targetPath }: { volumeId: string; targetPath: string },
): Promise<void> {
  const advice = adviceForUnmount(parts, { volumeId, path: targetPath });
  await parts.mounts.unmountAll(targetPath, advice);
  await removeTarget(volumeId, targetPath);
  const record = await parts.records.load(volumeId);
  if (record === undefined) return;
  const targets = record.targets.filter((target) => target.path !== targetPath);
  if (targets.length < record.targets.length) await parts.records.save({ ...record, targets });
}

/** Removes an empty directory or a file, and never what a directory holds. */
async function removeTarget(volumeId: string, path: string): Promise<void> {
  try {
    if ((await lstat(path)).isDirectory()) await rmdir(path);
    else await unlink(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT') || hasErrno(error, 'ENOTDIR')) return;
    const why = describeError(error);
    throw new VolumeError('INTERNAL', `unpublish volume ${volumeId}: remove ${path}: ${why}`, {
      cause: error,
    });
  }
}

function notStaged(volumeId: string, why: string): VolumeError {
  return new VolumeError('NOT_CAPABLE', `publish volume ${volumeId}: ${why}`);
}
