/** ListVolumes and GetCapacity. */
import type {
  GetCapacityRequest,
  GetCapacityResponse,
  ListVolumesRequest,
  ListVolumesResponse,
} from '../api/generated/csi.ts';
import { pageLimit } from '../csi/validate.ts';
import { parseCapability, unsupportedReason } from '../csi/volume-capability.ts';
import type { PageRequest, VolumeService } from '../volumes/volume-service.ts';
import { volumeBytesMin } from './capacity-range.ts';
import { volumeMessage, volumeStatus } from './messages.ts';
import { parseVolumeParameters } from './parameters.ts';
import { accessibleTopology, isReachedFrom } from './topology.ts';

/** Sidecars receive at most 4 MiB in one message (grpc-go's default); an entry stays below 2 KiB. */
const pageEntriesMax = 1000;

export function pageRequest(limit: number | undefined, startToken: string): PageRequest {
  return {
    limit: Math.min(limit ?? pageEntriesMax, pageEntriesMax),
    ...(startToken === '' ? {} : { startToken }),
  };
}

export async function listVolumes(
  driverName: string,
  volumes: VolumeService,
  request: ListVolumesRequest,
): Promise<ListVolumesResponse> {
  const page = pageRequest(pageLimit(request.maxEntries), request.startingToken);
  const topology = accessibleTopology(driverName, await volumes.info());
  const { items, nextToken } = await volumes.listVolumes(page);
  return {
    entries: items.map((volume) => ({
      volume: volumeMessage(volume, { topology }),
      status: volumeStatus(volume),
    })),
    nextToken: nextToken ?? '',
  };
}

/** What is free for data: volumes are thin, so a new one may be larger. Zero where no volume can be made. */
export async function getCapacity(
  driverName: string,
  volumes: VolumeService,
  request: GetCapacityRequest,
): Promise<GetCapacityResponse> {
  parseVolumeParameters(request.parameters);
  const uses = request.volumeCapabilities.map((capability, index) =>
    parseCapability(`volume_capabilities[${index}]`, capability),
  );
  const info = await volumes.info();
  const { accessibleTopology: where } = request;
  const supported =
    uses.every((use) => unsupportedReason(use, info) === undefined) &&
    (where === undefined || isReachedFrom(driverName, info, where));
  const availableBytes = supported ? (await volumes.capacity()).availableBytes : 0;
  return {
    availableCapacity: Math.max(0, availableBytes),
    maximumVolumeSize: undefined,
    minimumVolumeSize: volumeBytesMin,
  };
}
