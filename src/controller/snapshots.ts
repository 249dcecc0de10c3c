/** The controller's snapshot RPCs. A snapshot is cut when CreateSnapshot answers, and ready when it is synced. */
import type {
  CreateSnapshotRequest,
  CreateSnapshotResponse,
  ListSnapshotsRequest,
  ListSnapshotsResponse,
} from '../api/generated/csi.ts';
import { pageLimit, requireString } from '../csi/validate.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { Page, VolumeService } from '../volumes/volume-service.ts';
import type { Snapshot } from '../volumes/volume.ts';
import { pageRequest } from './list-volumes.ts';
import { findVolumeById, snapshotById, snapshotMessage } from './messages.ts';
import { checkSnapshotParameters } from './parameters.ts';

/** Negative: answer as soon as the snapshot is cut (libovsvolumedriver(7)). */
const doNotWait = -1;

export async function createSnapshot(
  volumes: VolumeService,
  request: CreateSnapshotRequest,
): Promise<CreateSnapshotResponse> {
  const name = requireString('name', request.name);
  const volumeId = requireString('source_volume_id', request.sourceVolumeId);
  checkSnapshotParameters(request.parameters);
  if ((await findVolumeById(volumes, volumeId)) === undefined) {
    // The volume may have been removed since an earlier call cut the snapshot.
    const { items } = await volumes.listSnapshots({ snapshot: name }, {});
    const earlier = items.find((one) => one.name === name && one.volumeId === volumeId);
    if (earlier !== undefined) return { snapshot: snapshotMessage(earlier) };
    // Going on would find a volume of which this is the name.
    throw new VolumeError(
      'VOLUME_NOT_FOUND',
      `create snapshot ${name}: no volume has the id ${volumeId}`,
    );
  }
  const snapshot = await volumes.createSnapshot({
    volume: volumeId,
    name,
    timeoutSeconds: doNotWait,
    claimName: true,
  });
  return { snapshot: snapshotMessage(snapshot) };
}

/** Volumes made from the snapshot stay. */
export async function deleteSnapshot(volumes: VolumeService, snapshotId: string): Promise<void> {
  try {
    const { id } = await snapshotById(volumes, snapshotId);
    await volumes.removeSnapshot({ snapshot: id }, 'deferred');
  } catch (error) {
    if (!hasCode(error, 'SNAPSHOT_NOT_FOUND')) throw error;
  }
}

export async function listSnapshots(
  volumes: VolumeService,
  request: ListSnapshotsRequest,
): Promise<ListSnapshotsResponse> {
  const page = pageRequest(pageLimit(request.maxEntries), request.startingToken);
  const { snapshotId, sourceVolumeId } = request;
  const filter = {
    ...(sourceVolumeId === '' ? {} : { volume: sourceVolumeId }),
    ...(snapshotId === '' ? {} : { snapshot: snapshotId }),
  };
  const { items, nextToken } = await findSnapshots(volumes, { filter, page });
  // The service also takes names.
  const matching = items.filter(
    (one) =>
      (snapshotId === '' || one.id === snapshotId) &&
      (sourceVolumeId === '' || one.volumeId === sourceVolumeId),
  );
  return {
    entries: matching.map((one) => ({ snapshot: snapshotMessage(one) })),
    nextToken: nextToken ?? '',
  };
}

async function findSnapshots(
  volumes: VolumeService,
  wanted: {
    filter: { volume?: string; snapshot?: string };
    page: ReturnType<typeof pageRequest>;
  },
): Promise<Page<Snapshot>> {
  try {
    return await volumes.listSnapshots(wanted.filter, wanted.page);
  } catch (error) {
    // An unknown filter matches nothing.
    if (!hasCode(error, 'VOLUME_NOT_FOUND') && !hasCode(error, 'SNAPSHOT_NOT_FOUND')) throw error;
    return { items: [] };
  }
}
