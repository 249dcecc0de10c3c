/** ListVolumes: the volumes of all backends, and the nodes that they are published to. */
import type { ListVolumesRequest, ListVolumesResponse } from '../api/generated/csi.ts';
import { pageLimit } from '../csi/validate.ts';
import { volumeMessage, volumeStatus } from './messages.ts';
import { listPage } from './pages.ts';
import { accessibleTopology } from './topology.ts';
import type { Volumedrivers } from './volumedrivers.ts';

export async function listVolumes(
  { driverName, volumedrivers }: { driverName: string; volumedrivers: Volumedrivers },
  request: ListVolumesRequest,
): Promise<ListVolumesResponse> {
  const wish = { limit: pageLimit(request.maxEntries), startToken: request.startingToken };
  const { entries, nextToken } = await listPage(volumedrivers, wish, (one, page) =>
    one.volumes.listVolumes(page),
  );
  return {
    entries: entries.map(({ item: volume, volumedriver }) => ({
      volume: volumeMessage(volume, { topology: accessibleTopology(driverName, volumedriver) }),
      status: volumeStatus(volume),
    })),
    nextToken,
  };
}
