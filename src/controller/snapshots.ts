/** The controller's snapshot RPCs. A snapshot is cut when CreateSnapshot answers, and ready when it is synced. */
import type {
  CreateSnapshotRequest,
  CreateSnapshotResponse,
  ListSnapshotsRequest,
  ListSnapshotsResponse,
} from '../api/generated/csi.ts';
import { pageLimit, requireString } from '../csi/validate.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { Page, PageRequest, VolumeService } from '../volumes/volume-service.ts';
import type { Snapshot } from '../volumes/volume.ts';
import { findVolumeById, snapshotById, snapshotMessage } from './messages.ts';
import { listPage } from './pages.ts';
import { checkSnapshotParameters } from './parameters.ts';
import { findVolumedriver, requireVolumedriver, type Volumedrivers } from './volumedrivers.ts';

/** Negative: answer as soon as the snapshot is cut (libovsvolumedriver(7)). */
const doNotWait = -1;

export async function createSnapshot(
  volumedrivers: Volumedrivers,
  request: CreateSnapshotRequest,
): Promise<CreateSnapshotResponse> {
  const name = requireString('name', request.name);
  const volumeId = requireString('source_volume_id', request.sourceVolumeId);
  checkSnapshotParameters(request.parameters);
  const { volumes } = await requireVolumedriver(volumedrivers, volumeId, 'VOLUME_NOT_FOUND');
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
export async function deleteSnapshot(
  volumedrivers: Volumedrivers,
  snapshotId: string,
): Promise<void> {
  const volumedriver = await findVolumedriver(volumedrivers, snapshotId);
  if (typeof volumedriver === 'string') return;
  const { volumes } = volumedriver;
  try {
    const { id } = await snapshotById(volumes, snapshotId);
    await volumes.removeSnapshot({ snapshot: id }, 'deferred');
  } catch (error) {
    if (!hasCode(error, 'SNAPSHOT_NOT_FOUND')) throw error;
  }
}

interface SnapshotFilter {
  readonly volume?: string;
  readonly snapshot?: string;
}

export async function listSnapshots(
  volumedrivers: Volumedrivers,
  request: ListSnapshotsRequest,
): Promise<ListSnapshotsResponse> {
  const { snapshotId, sourceVolumeId, startingToken } = request;
  const wish = { limit: pageLimit(request.maxEntries), startToken: startingToken };
  const filter = {
    ...(sourceVolumeId === '' ? {} : { volume: sourceVolumeId }),
    ...(snapshotId === '' ? {} : { snapshot: snapshotId }),
  };
  const searched = await volumedriversFor(volumedrivers, filter);
  const { entries, nextToken } = await listPage(searched, wish, (one, page) =>
    snapshotsOf(one.volumes, filter, page),
  );
  return { entries: entries.map(({ item }) => ({ snapshot: snapshotMessage(item) })), nextToken };
}

/** Ids in the filter tell which backend can have a match; only without any, all are searched. */
async function volumedriversFor(
  volumedrivers: Volumedrivers,
  filter: SnapshotFilter,
): Promise<Pick<Volumedrivers, 'list'>> {
  const id = filter.snapshot ?? filter.volume;
  if (id === undefined) return volumedrivers;
  const found = await findVolumedriver(volumedrivers, id);
  return { list: () => Promise.resolve(typeof found === 'string' ? [] : [found]) };
}

/** The service also takes names, and rejects for an unknown filter, which matches nothing. */
async function snapshotsOf(
  volumes: VolumeService,
  filter: SnapshotFilter,
  page: PageRequest,
): Promise<Page<Snapshot>> {
  const { snapshot = '', volume = '' } = filter;
  try {
    const found = await volumes.listSnapshots(filter, page);
    const items = found.items.filter(
      (one) =>
        (snapshot === '' || one.id === snapshot) && (volume === '' || one.volumeId === volume),
    );
    return { ...found, items };
  } catch (error) {
    if (!hasCode(error, 'VOLUME_NOT_FOUND') && !hasCode(error, 'SNAPSHOT_NOT_FOUND')) throw error;
    return { items: [] };
  }
}
