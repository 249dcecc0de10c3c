/** What the parts of the volumedriver's service share. */
import { VolumeError } from '../../volumes/errors.ts';
import type { FlushTarget, Snapshot, Volume as VolumeFacts } from '../../volumes/volume.ts';
import type { Environment } from '../environment.ts';
import { clusterBytes, volumeBytesMax } from '../format/constants.ts';
import type { SnapshotState, VolumeState } from '../format/control.ts';
import { keys } from '../keys.ts';
import type { Volume } from '../volume.ts';
import type { Catalog, Entry } from './catalog.ts';

export interface ServiceOptions {
  version: string;
  nodeId: string;
  backendId: string;
  /** Any node may open the backend's volumes. */
  shared: boolean;
  defaultFlushTo: FlushTarget;
  /** The NBD URI of an export of this volumedriver. */
  exportUri(exportName: string): string;
}

export interface ServiceContext {
  environment: Environment;
  catalog: Catalog;
  options: ServiceOptions;
  /** A new ULID. */
  newId(): string;
}

/** The bytes, rounded up to whole clusters. INVALID_ARGUMENT, OUT_OF_RANGE. */
export function checkSize(what: string, sizeBytes: number): number {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      `${what}: ${sizeBytes} bytes are no size of a volume`,
    );
  }
  if (sizeBytes > volumeBytesMax) {
    throw new VolumeError(
      'OUT_OF_RANGE',
      `${what}: ${sizeBytes} bytes are more than the largest volume has, ${volumeBytesMax}`,
    );
  }
  return Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
}

/** VOLUME_IN_USE with a grant, or with a client of the head. */
export function assertUnused(what: string, state: VolumeState, volume: Volume | null): void {
  const [grant] = state.grants;
  if (grant !== undefined) {
    throw new VolumeError('VOLUME_IN_USE', `${what}: node ${grant.node} has the volume`);
  }
  const clients = [...(volume?.clients ?? [])].filter(({ snapshot }) => snapshot === null).length;
  if (clients > 0) {
    throw new VolumeError('VOLUME_IN_USE', `${what}: the volume has ${clients} connected clients`);
  }
}

export function describeVolume(context: ServiceContext, entry: Entry): VolumeFacts {
  const { catalog } = context;
  const state = catalog.stateOf(entry);
  const { name, sizeBytes, createdAtMs, source, flushTo, generation, written, formatting } = state;
  return {
    id: catalog.publicId(state.id),
    name,
    sizeBytes,
    createdAtMs,
    source,
    flushTo,
    grants: state.grants.map(({ node, readOnly, generation: number }) => ({
      node,
      readOnly,
      generation: number,
    })),
    generation,
    written,
    formatting,
    usedBytes: entry.volume?.usedBytes ?? entry.closedUsedBytes,
    clients: entry.volume?.clients.size ?? 0,
    halted: entry.volume?.halted?.message ?? null,
  };
}

export function describeSnapshot(
  context: ServiceContext,
  entry: Entry,
  snapshot: SnapshotState,
): Snapshot {
  const { catalog } = context;
  return {
    id: catalog.publicId(snapshot.id),
    name: snapshot.name,
    volumeId: catalog.publicId(entry.id),
    createdAtMs: snapshot.createdAtMs,
    sizeBytes: snapshot.sizeBytes,
    synced: entry.volume?.isSynced(snapshot.id) ?? !catalog.isUnrecovered(entry),
  };
}

/** Deletes the records that lead to a snapshot which is gone. */
export async function forgetSnapshot(
  context: ServiceContext,
  snapshot: SnapshotState,
): Promise<void> {
  const { store } = context.environment;
  if (snapshot.claimed) await store.delete(keys.snapshotName(snapshot.name));
  await store.delete(keys.snapshot(snapshot.id));
}
