/** From our volumes and snapshots to CSI's messages, and the exact lookups that CSI's ids need. */
import type {
  Snapshot as SnapshotMessage,
  Topology,
  Volume as VolumeMessage,
  VolumeCondition,
  VolumeContentSource,
} from '../api/generated/csi.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import type { Snapshot, Volume, VolumeSource } from '../volumes/volume.ts';

export function volumeMessage(
  volume: Volume,
  more: { topology: Topology[]; context?: Record<string, string> },
): VolumeMessage {
  return {
    volumeId: volume.id,
    capacityBytes: volume.sizeBytes,
    volumeContext: more.context ?? {},
    contentSource: contentSource(volume.source),
    accessibleTopology: more.topology,
  };
}

function contentSource(source: VolumeSource | null): VolumeContentSource | undefined {
  if (source === null) return undefined;
  if (source.kind === 'volume') {
    return { type: { $case: 'volume', value: { volumeId: source.volumeId } } };
  }
  return { type: { $case: 'snapshot', value: { snapshotId: source.snapshotId } } };
}

export interface VolumeStatus {
  publishedNodeIds: string[];
  volumeCondition: VolumeCondition;
}

export function volumeStatus(volume: Volume): VolumeStatus {
  const { halted } = volume;
  return {
    publishedNodeIds: volume.grants.map((grant) => grant.node),
    volumeCondition: {
      abnormal: halted !== null,
      message: halted === null ? 'the volume works' : `the volume stopped: ${halted}`,
    },
  };
}

export function snapshotMessage(snapshot: Snapshot): SnapshotMessage {
  return {
    snapshotId: snapshot.id,
    sourceVolumeId: snapshot.volumeId,
    sizeBytes: snapshot.sizeBytes,
    creationTime: new Date(snapshot.createdAtMs),
    readyToUse: snapshot.synced,
    groupSnapshotId: '',
    accessibleTopology: [],
  };
}

/**
 * The volume with exactly this id: the service also takes names, and a CSI id that happens to be another volume's
 * name must not reach that one. VOLUME_NOT_FOUND.
 */
export async function volumeById(volumes: VolumeService, id: string): Promise<Volume> {
  const volume = await volumes.getVolume(id);
  if (volume.id === id) return volume;
  throw new VolumeError('VOLUME_NOT_FOUND', `find volume: no volume has the id ${id}`);
}

/** Undefined when there is none. */
export async function findVolumeById(
  volumes: VolumeService,
  id: string,
): Promise<Volume | undefined> {
  try {
    return await volumeById(volumes, id);
  } catch (error) {
    if (hasCode(error, 'VOLUME_NOT_FOUND')) return undefined;
    throw error;
  }
}

/** SNAPSHOT_NOT_FOUND. */
export async function snapshotById(volumes: VolumeService, id: string): Promise<Snapshot> {
  const snapshot = await volumes.getSnapshot({ snapshot: id });
  if (snapshot.id === id) return snapshot;
  throw new VolumeError('SNAPSHOT_NOT_FOUND', `find snapshot: no snapshot has the id ${id}`);
}
