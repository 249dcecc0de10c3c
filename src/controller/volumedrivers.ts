/**
 * Which volumedrivers a controller works with. Each has one backend, and the backend's id is the first part of the id
 * of every volume and snapshot in it: that is how a call finds its way. A backend is registered before the first
 * volume is made in it, so one that nobody knows holds nothing that a caller could name.
 */
import { hasCode, VolumeError, type ErrorCode } from '../volumes/errors.ts';
import type { DriverInfo, VolumeService } from '../volumes/volume-service.ts';

export interface Volumedriver {
  readonly nodeId: string;
  readonly backendId: string;
  /** Any node can open the backend. */
  readonly shared: boolean;
  /** Calls reject with UNAVAILABLE, naming the node, while the volumedriver does not answer. */
  readonly volumes: VolumeService;
}

/** forgotten: an administrator gave the node up, and with it whatever is in the backend. */
export type FoundBackend = Volumedriver | 'forgotten' | 'unknown';

/** Everything may reject with UNAVAILABLE. */
export interface Volumedrivers {
  /** All that are registered and not forgotten, in the order of their backends' ids, whether they answer or not. */
  list(): Promise<readonly Volumedriver[]>;
  ofBackend(backendId: string): Promise<FoundBackend>;
  /** Nodes with a volumedriver that never told its backend, or not yet. */
  nodesToRegister(): Promise<readonly string[]>;
}

/** Those at fixed addresses, as on one machine. A backend is known once its volumedriver has answered. */
export function staticVolumedrivers(services: readonly VolumeService[]): Volumedrivers {
  const known = new Map<VolumeService, DriverInfo>();
  const infoOf = async (service: VolumeService): Promise<DriverInfo> => {
    try {
      const info = await service.info();
      known.set(service, info);
      return info;
    } catch (error) {
      const earlier = known.get(service);
      if (earlier === undefined || !hasCode(error, 'UNAVAILABLE')) throw error;
      return earlier;
    }
  };
  const list = async (): Promise<Volumedriver[]> => {
    const all = await Promise.all(
      services.map(async (volumes) => {
        const { nodeId, backendId, shared } = await infoOf(volumes);
        return { nodeId, backendId, shared, volumes };
      }),
    );
    return inOrder(all);
  };
  return {
    list,
    ofBackend: async (backendId) =>
      (await list()).find((one) => one.backendId === backendId) ?? 'unknown',
    nodesToRegister: () => Promise.resolve([]),
  };
}

export function inOrder(volumedrivers: readonly Volumedriver[]): Volumedriver[] {
  return volumedrivers.toSorted((left, right) => (left.backendId < right.backendId ? -1 : 1));
}

/**
 * The volumedriver that has, or had, the volume or snapshot with this id. UNAVAILABLE while that cannot be told, since
 * one that never answered may be it.
 */
export async function findVolumedriver(
  volumedrivers: Volumedrivers,
  id: string,
): Promise<FoundBackend> {
  const backendId = /^([^.]+)\../.exec(id)?.[1];
  if (backendId === undefined) return 'unknown';
  const found = await volumedrivers.ofBackend(backendId);
  if (found !== 'unknown') return found;
  const [nodeId] = await volumedrivers.nodesToRegister();
  if (nodeId === undefined) return 'unknown';
  throw new VolumeError(
    'UNAVAILABLE',
    `find ${id}: it may be on node ${nodeId}, whose volumedriver has not answered yet`,
  );
}

/** Rejects with `code` when there is none any more, or never was. */
export async function requireVolumedriver(
  volumedrivers: Volumedrivers,
  id: string,
  code: Extract<ErrorCode, 'VOLUME_NOT_FOUND' | 'SNAPSHOT_NOT_FOUND'>,
): Promise<Volumedriver> {
  const found = await findVolumedriver(volumedrivers, id);
  if (typeof found !== 'string') return found;
  const what = code === 'VOLUME_NOT_FOUND' ? 'volume' : 'snapshot';
  const why = found === 'forgotten' ? 'its node was forgotten' : `there is no such ${what}`;
  throw new VolumeError(code, `find ${what} ${id}: ${why}`);
}
