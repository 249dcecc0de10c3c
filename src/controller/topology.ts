/** Where volumes can be used: a backend on one node is reached from there only, a shared one from everywhere. */
import type { Topology, TopologyRequirement } from '../api/generated/csi.ts';
import { topologyKey } from '../csi/volume-capability.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { DriverInfo } from '../volumes/volume-service.ts';

/** Empty: everywhere. */
export function accessibleTopology(driverName: string, info: DriverInfo): Topology[] {
  return info.shared ? [] : [{ segments: { [topologyKey(driverName)]: info.nodeId } }];
}

/** Whether something in `topology` reaches the backend. */
export function isReachedFrom(driverName: string, info: DriverInfo, topology: Topology): boolean {
  return accessibleTopology(driverName, info).every((own) =>
    Object.entries(own.segments).every(([key, value]) => topology.segments[key] === value),
  );
}

/** OUT_OF_SPACE (RESOURCE_EXHAUSTED) when no volume can be made where the caller needs it. */
export function checkRequirement(
  driverName: string,
  info: DriverInfo,
  requirement: TopologyRequirement | undefined,
): void {
  if (requirement === undefined) return;
  // `preferred` alone is a wish; with `requisite` it is a part of it.
  const { requisite } = requirement;
  if (requisite.length === 0) return;
  if (requisite.some((topology) => isReachedFrom(driverName, info, topology))) return;
  throw new VolumeError(
    'OUT_OF_SPACE',
    `accessibility_requirements: volumes of this backend are reached from node ${info.nodeId} only, which is ` +
      'not among the requisite topologies',
  );
}
