/** Snapshots of volumes: taking, removing, rolling back, waiting. */
import { VolumeError } from '../../volumes/errors.ts';
import type {
  CreateSnapshotRequest,
  RemovalMode,
  SnapshotRef,
} from '../../volumes/volume-service.ts';
import type { Snapshot } from '../../volumes/volume.ts';
import type { SnapshotState } from '../format/control.ts';
import { keys } from '../keys.ts';
import { findSnapshot } from '../state.ts';
import type { Volume } from '../volume.ts';
import type { Entry } from './catalog.ts';
import { assertUnused, describeSnapshot, forgetSnapshot, type ServiceContext } from './context.ts';
import { checkName } from './naming.ts';
import { removeSnapshotData } from './removal.ts';

/** All snapshots of a volume are in each of its checkpoint records, which have a bound. */
const snapshotsMax = 4096;

export async function createSnapshot(
  context: ServiceContext,
  request: CreateSnapshotRequest,
): Promise<Snapshot> {
  const { catalog } = context;
  const what = `taking snapshot ${JSON.stringify(request.name)}`;
  checkName(what, request.name);
  const entry = catalog.find(request.volume);
  const lockKeys = [entry.id, `the snapshot name ${request.name}`];
  const { id, fresh } = await catalog.exclusively(lockKeys, async () => {
    const existing = existingSnapshot(context, entry, request);
    if (existing !== undefined) return { id: existing.id, fresh: false };
    return { id: await cutSnapshot(context, entry, request), fresh: true };
  });
  const ref = { snapshot: catalog.publicId(id) };
  const limitSeconds = request.timeoutSeconds;
  if (limitSeconds < 0) return getSnapshot(context, ref);
  try {
    return await waitSnapshot(context, ref, limitSeconds === 0 ? Infinity : limitSeconds);
  } catch (error) {
    if (fresh) await removeSnapshot(context, ref, 'deferred');
    throw error;
  }
}

/** The snapshot that a repeated call means. ALREADY_EXISTS when the name is another's. */
function existingSnapshot(
  context: ServiceContext,
  entry: Entry,
  request: CreateSnapshotRequest,
): SnapshotState | undefined {
  const { catalog } = context;
  const taken = (where: string): never => {
    throw new VolumeError(
      'ALREADY_EXISTS',
      `taking snapshot ${JSON.stringify(request.name)}: ${where} has one of that name`,
    );
  };
  for (const other of request.claimName === true ? catalog.entries : [entry]) {
    for (const snapshot of catalog.stateOf(other).snapshots) {
      if (snapshot.hidden || snapshot.name !== request.name) continue;
      if (other === entry) return request.claimName === true ? snapshot : taken('the volume');
      if (snapshot.claimed) taken('another volume');
    }
  }
  return undefined;
}

async function cutSnapshot(
  context: ServiceContext,
  entry: Entry,
  request: CreateSnapshotRequest,
): Promise<string> {
  const { store, clock } = context.environment;
  const volume = await context.catalog.open(entry);
  if (volume.state.snapshots.length >= snapshotsMax) {
    throw new VolumeError(
      'LIMIT_REACHED',
      `taking snapshot ${JSON.stringify(request.name)}: the volume has ${snapshotsMax} snapshots already`,
    );
  }
  const id = context.newId();
  const claimed = request.claimName === true;
  const record = Buffer.from(
    JSON.stringify({ name: request.name, snapshot: id, volume: entry.id }),
  );
  if (claimed) await store.put(keys.snapshotName(request.name), [record]);
  await store.put(keys.snapshot(id), [record]);
  const createdAtMs = clock.now();
  await volume.takeSnapshot({ id, name: request.name, createdAtMs, claimed, hidden: false });
  return id;
}

export function getSnapshot(context: ServiceContext, ref: SnapshotRef): Snapshot {
  const { entry, snapshot } = context.catalog.findSnapshot(ref);
  return describeSnapshot(context, entry, snapshot);
}

/** SNAPSHOT_TIMEOUT after `limitSeconds`; the snapshot stays. */
export async function waitSnapshot(
  context: ServiceContext,
  ref: SnapshotRef,
  limitSeconds: number,
): Promise<Snapshot> {
  const { entry, snapshot } = context.catalog.findSnapshot(ref);
  const done = untilSynced(context, entry, snapshot.id);
  const stop = new AbortController();
  const expired = Number.isFinite(limitSeconds)
    ? context.environment.clock.sleep(limitSeconds * 1000, stop.signal).then(() => {
        throw new VolumeError(
          'SNAPSHOT_TIMEOUT',
          `waiting for snapshot ${JSON.stringify(snapshot.name)}: not in the backend after ${limitSeconds} s`,
        );
      })
    : null;
  try {
    await (expired === null ? done : Promise.race([done, expired]));
  } finally {
    stop.abort();
    expired?.catch(() => undefined); // the abort itself
    done.catch(() => undefined); // nobody waits for it any more
  }
  return getSnapshot(context, { snapshot: context.catalog.publicId(snapshot.id) });
}

async function untilSynced({ catalog }: ServiceContext, entry: Entry, id: string): Promise<void> {
  const volume = entry.volume ?? (catalog.isUnrecovered(entry) ? await catalog.open(entry) : null);
  await volume?.waitSynced(id);
}

export async function removeSnapshot(
  context: ServiceContext,
  ref: SnapshotRef,
  mode: RemovalMode,
): Promise<void> {
  const { catalog } = context;
  const { entry, snapshot } = catalog.findSnapshot(ref);
  await catalog.exclusively([entry.id], async () => {
    const volume = await catalog.open(entry);
    const clones = findSnapshot(volume.state, snapshot.id)?.clones.length ?? 0;
    if (clones > 0 && mode === 'strict') {
      throw new VolumeError(
        'HAS_CLONES',
        `removing snapshot ${JSON.stringify(snapshot.name)}: clones of it: ${clones}`,
      );
    }
    dropReaders(volume, [snapshot.id]);
    if (clones === 0) {
      await removeSnapshotData(context, entry, snapshot.id);
      return;
    }
    await volume.durableChange({ kind: 'snapshotHidden', id: snapshot.id });
    await forgetSnapshot(context, snapshot);
  });
}

export async function rollbackSnapshot(context: ServiceContext, ref: SnapshotRef): Promise<void> {
  const { catalog } = context;
  const { entry, snapshot } = catalog.findSnapshot(ref);
  const what = `rolling back to snapshot ${JSON.stringify(snapshot.name)}`;
  await catalog.exclusively([entry.id], async () => {
    const volume = await catalog.open(entry);
    if (volume.state.removed) {
      throw new VolumeError('VOLUME_NOT_FOUND', `${what}: its volume was removed`);
    }
    assertUnused(what, volume.state, volume);
    const newer = volume.state.snapshots.filter((other) => other.number > snapshot.number);
    const cloned = newer.find(({ clones }) => clones.length > 0);
    if (cloned !== undefined) {
      throw new VolumeError(
        'HAS_CLONES',
        `${what}: the newer snapshot ${JSON.stringify(cloned.name)} has clones`,
      );
    }
    dropReaders(
      volume,
      newer.map(({ id }) => id),
    );
    await volume.durableChange({ kind: 'rolledBack', id: snapshot.id });
    for (const dropped of newer) await forgetSnapshot(context, dropped);
  });
}

function dropReaders(volume: Volume, snapshots: readonly string[]): void {
  volume.revokeClients(
    (client) => client.snapshot !== null && snapshots.includes(client.snapshot),
    new VolumeError('SNAPSHOT_NOT_FOUND', 'reading a snapshot: it was removed'),
  );
}
