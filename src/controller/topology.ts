/** Where volumes can be used: a backend on one node is reached from there only, a shared one from everywhere. */
import type { Topology, TopologyRequirement } from '../api/generated/csi.ts';
import { topologyKey } from '../csi/volume-capability.ts';
import type { Volumedriver } from './volumedrivers.ts';

/** From where a backend is reached. */
export type Reach = Pick<Volumedriver, 'nodeId' | 'shared'>;

/** Empty: everywhere. */
export function accessibleTopology(driverName: string, volumedriver: Reach): Topology[] {
  if (volumedriver.shared) return [];
  return [{ segments: { [topologyKey(driverName)]: volumedriver.nodeId } }];
}

/** Whether something in `topology` reaches the backend. */
export function isReachedFrom(
  driverName: string,
  volumedriver: Reach,
  topology: Topology,
): boolean {
  return accessibleTopology(driverName, volumedriver).every((own) =>
    Object.entries(own.segments).every(([key, value]) => topology.segments[key] === value),
  );
}

/**
 * Those that the requirement allows, the most preferred first. `preferred` alone is a wish; beside `requisite` it is a
 * part of it (CSI, TopologyRequirement).
 */
export function allowedBy<Candidate extends Reach>(
  driverName: string,
  candidates: readonly Candidate[],
  requirement: TopologyRequirement | undefined,
): Candidate[] {
  const { requisite, preferred } = requirement ?? { requisite: [], preferred: [] };
  const allowed = candidates.filter(
    (one) =>
      requisite.length === 0 || requisite.some((where) => isReachedFrom(driverName, one, where)),
  );
  const rank = (one: Reach): number => {
    const index = preferred.findIndex((where) => isReachedFrom(driverName, one, where));
    return index === -1 ? preferred.length : index;
  };
  return allowed.toSorted((left, right) => rank(left) - rank(right));
}

/** The nodes that the requirement names; undefined when it names none. */
export function requisiteNodes(
  driverName: string,
  requirement: TopologyRequirement | undefined,
): string[] | undefined {
  const requisite = requirement?.requisite ?? [];
  if (requisite.length === 0) return undefined;
  return requisite.flatMap(({ segments }) => segments[topologyKey(driverName)] ?? []);
}
