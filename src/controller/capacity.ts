/**
 * How much is free, and how large a new volume may be. Volumes are thin: one may be larger than what is free, but not
 * without limit, or filling it would surely end in a full disk.
 */
import type { GetCapacityRequest, GetCapacityResponse, Topology } from '../api/generated/csi.ts';
import { parseCapability, unsupportedReason } from '../csi/volume-capability.ts';
import { VolumeError } from '../volumes/errors.ts';
import { volumeBytesMax } from '../volumes/volume.ts';
import { clusterBytes, volumeBytesMin } from './capacity-range.ts';
import { parseVolumeParameters } from './parameters.ts';
import { isReachedFrom, type Reach } from './topology.ts';
import type { Volumedriver, Volumedrivers } from './volumedrivers.ts';

export interface CapacityParts {
  readonly driverName: string;
  readonly volumedrivers: Volumedrivers;
  /** A new volume has at most so many times what is free. */
  readonly overcommit: number;
}

/** Free bytes for data, and the largest volume that may be made. */
export interface Room {
  readonly availableBytes: number;
  readonly volumeBytesMax: number;
}

export async function roomOf({ volumes }: Volumedriver, overcommit: number): Promise<Room> {
  const availableBytes = Math.max(0, (await volumes.capacity()).availableBytes);
  const thinBytes = Math.floor((overcommit * availableBytes) / clusterBytes) * clusterBytes;
  return { availableBytes, volumeBytesMax: Math.min(volumeBytesMax, thinBytes) };
}

/**
 * Zero where no volume can be made. Without a topology: all nodes together. UNAVAILABLE while the volumedriver of a node
 * comes up: the scheduler would believe a zero for a minute.
 */
export async function getCapacity(
  parts: CapacityParts,
  request: GetCapacityRequest,
): Promise<GetCapacityResponse> {
  parseVolumeParameters(request.parameters);
  const uses = request.volumeCapabilities.map((capability, index) =>
    parseCapability(`volume_capabilities[${index}]`, capability),
  );
  const reached = await reachedFrom(parts, request.accessibleTopology);
  const suitable = reached.filter((one) =>
    uses.every((use) => unsupportedReason(use, one) === undefined),
  );
  const rooms = await Promise.all(suitable.map((one) => roomOf(one, parts.overcommit)));
  return {
    availableCapacity: rooms.reduce((sum, room) => sum + room.availableBytes, 0),
    maximumVolumeSize: Math.max(0, ...rooms.map((room) => room.volumeBytesMax)),
    minimumVolumeSize: volumeBytesMin,
  };
}

async function reachedFrom(
  { driverName, volumedrivers }: CapacityParts,
  where: Topology | undefined,
): Promise<Volumedriver[]> {
  const isReached = (one: Reach): boolean =>
    where === undefined || isReachedFrom(driverName, one, where);
  const reached = (await volumedrivers.list()).filter(isReached);
  if (reached.length > 0) return reached;
  const starting = (await volumedrivers.nodesToRegister()).find((nodeId) =>
    isReached({ nodeId, shared: false }),
  );
  if (starting === undefined) return [];
  throw new VolumeError(
    'UNAVAILABLE',
    `get capacity: the volumedriver of node ${starting} has not answered yet`,
  );
}
