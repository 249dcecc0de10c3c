/** CreateVolume and DeleteVolume. Repeating either is safe at any time: a volume is known by its name. */
import type {
  CreateVolumeRequest,
  CreateVolumeResponse,
  VolumeContentSource,
} from '../api/generated/csi.ts';
import { invalid, requireString } from '../csi/validate.ts';
import { fsTypeContextKey, parseCapabilities, requireSupported } from '../csi/volume-capability.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { DriverInfo, VolumeService } from '../volumes/volume-service.ts';
import type { FlushTarget, Volume, VolumeSource } from '../volumes/volume.ts';
import { chooseSize, isWithin, parseRange, type SizeRange } from './capacity-range.ts';
import { findVolumeById, snapshotById, volumeById, volumeMessage } from './messages.ts';
import { parseVolumeParameters } from './parameters.ts';
import { accessibleTopology, checkRequirement } from './topology.ts';

/** A request whose fields are all valid. */
interface Wanted {
  readonly name: string;
  readonly range: SizeRange;
  readonly source: VolumeSource | undefined;
  readonly flushTo: FlushTarget;
}

export async function createVolume(
  driverName: string,
  volumes: VolumeService,
  request: CreateVolumeRequest,
): Promise<CreateVolumeResponse> {
  const name = requireString('name', request.name);
  const uses = parseCapabilities('volume_capabilities', request.volumeCapabilities);
  const range = parseRange(request.capacityRange);
  const parameters = parseVolumeParameters(request.parameters);
  if (Object.keys(request.mutableParameters).length > 0) {
    throw invalid('mutable_parameters', 'volumes have none');
  }
  const source = parseSource(request.volumeContentSource);
  const info = await volumes.info();
  uses.forEach((use, index) => {
    requireSupported(`volume_capabilities[${index}]`, use, info);
  });
  checkRequirement(driverName, info, request.accessibilityRequirements);
  const flushTo = parameters.flushTo ?? defaultFlushTarget(info);
  const volume = await createOrFind(volumes, { name, range, source, flushTo });
  const context = parameters.fsType === undefined ? {} : { [fsTypeContextKey]: parameters.fsType };
  const topology = accessibleTopology(driverName, info);
  return { volume: volumeMessage(volume, { topology, context }) };
}

/** As the volumedriver has it: safe unless asked otherwise, where another node may take over. */
function defaultFlushTarget(info: DriverInfo): FlushTarget {
  return info.shared ? 'backend' : 'local';
}

function parseSource(source: VolumeContentSource | undefined): VolumeSource | undefined {
  if (source === undefined) return undefined;
  if (source.type === undefined) throw invalid('volume_content_source', 'it names no source');
  if (source.type.$case === 'volume') {
    const field = 'volume_content_source.volume.volume_id';
    return { kind: 'volume', volumeId: requireString(field, source.type.value.volumeId) };
  }
  const field = 'volume_content_source.snapshot.snapshot_id';
  return { kind: 'snapshot', snapshotId: requireString(field, source.type.value.snapshotId) };
}

/** Made by an earlier call, a volume may have grown since, and so may its source, which may also be gone by now. */
const repeatedCodes = [
  'ALREADY_EXISTS',
  'VOLUME_NOT_FOUND',
  'SNAPSHOT_NOT_FOUND',
  'OUT_OF_RANGE',
] as const;

async function createOrFind(volumes: VolumeService, wanted: Wanted): Promise<Volume> {
  try {
    const sourceBytes = await sourceSize(volumes, wanted.source);
    return await volumes.createVolume({
      name: wanted.name,
      sizeBytes: chooseSize(wanted.range, sourceBytes),
      flushTo: wanted.flushTo,
      ...(wanted.source === undefined ? {} : { source: wanted.source }),
    });
  } catch (error) {
    const mayExist = repeatedCodes.some((code) => hasCode(error, code));
    const existing = mayExist ? await findByName(volumes, wanted.name) : undefined;
    if (existing === undefined) throw error;
    if (isCompatible(existing, wanted)) return existing;
    throw new VolumeError(
      'ALREADY_EXISTS',
      `create volume ${wanted.name}: it exists with another size, source or flushTo`,
      { cause: error },
    );
  }
}

async function sourceSize(
  volumes: VolumeService,
  source: VolumeSource | undefined,
): Promise<number | undefined> {
  if (source === undefined) return undefined;
  if (source.kind === 'volume') return (await volumeById(volumes, source.volumeId)).sizeBytes;
  return (await snapshotById(volumes, source.snapshotId)).sizeBytes;
}

async function findByName(volumes: VolumeService, name: string): Promise<Volume | undefined> {
  try {
    const volume = await volumes.getVolume(name);
    return volume.name === name ? volume : undefined;
  } catch (error) {
    if (hasCode(error, 'VOLUME_NOT_FOUND')) return undefined;
    throw error;
  }
}

function isCompatible(volume: Volume, wanted: Wanted): boolean {
  if (!isWithin(wanted.range, volume.sizeBytes) || volume.flushTo !== wanted.flushTo) return false;
  return sourceId(volume.source) === sourceId(wanted.source ?? null);
}

function sourceId(source: VolumeSource | null): string {
  if (source === null) return '';
  return source.kind === 'volume' ? `volume ${source.volumeId}` : `snapshot ${source.snapshotId}`;
}

/** Snapshots and clones of the volume stay: its data is kept until the last of them is gone. */
export async function deleteVolume(volumes: VolumeService, volumeId: string): Promise<void> {
  if ((await findVolumeById(volumes, volumeId)) === undefined) return;
  try {
    await volumes.removeVolume(volumeId, 'deferred');
  } catch (error) {
    if (!hasCode(error, 'VOLUME_NOT_FOUND')) throw error;
  }
}
