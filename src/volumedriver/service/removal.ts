/**
 * How volumes and snapshots end. Data goes only when nothing needs it: a removed volume stays, hidden, for its
 * snapshots; a removed snapshot stays, hidden, for its clones; and a clone that goes lets go of its source.
 * Every step can be repeated, so that a start resumes what a crash interrupted.
 */
import { hasCode } from '../../volumes/errors.ts';
import type { SnapshotState } from '../format/control.ts';
import { volumeDirectory } from '../environment.ts';
import { keys, numberOfKey } from '../keys.ts';
import { loadHistory } from '../recovery/history.ts';
import { findSnapshot, isGone } from '../state.ts';
import type { Entry } from './catalog.ts';
import { forgetSnapshot, type ServiceContext } from './context.ts';

/** Removes a snapshot that has no clone, and its volume if that was waiting for it. The caller holds the volume's lock. */
export async function removeSnapshotData(
  context: ServiceContext,
  entry: Entry,
  id: string,
): Promise<void> {
  const volume = await context.catalog.open(entry);
  const snapshot = findSnapshot(volume.state, id);
  if (snapshot !== undefined) {
    await volume.durableChange({ kind: 'snapshotRemoved', id });
    await forgetSnapshot(context, snapshot);
  }
  if (isGone(volume.state)) await purgeIfPossible(context, entry);
}

/** As purge; while an operation on its source keeps it from that, it is left to maintenance. */
export async function purgeIfPossible(context: ServiceContext, entry: Entry): Promise<void> {
  try {
    await purge(context, entry);
  } catch (error) {
    if (!hasCode(error, 'OPERATION_PENDING')) throw error;
  }
}

/** Deletes everything of a volume that nothing needs any more, and lets go of its source. */
async function purge(context: ServiceContext, entry: Entry): Promise<void> {
  const { catalog, environment } = context;
  const volume = await catalog.open(entry);
  await volume.checkpoint(); // commits that the objects are doomed, and deletes them
  const { parent } = volume.state;
  if (parent !== null) await unlinkClone(context, parent, entry.id);
  await volume.close();
  entry.closedState = volume.state;
  entry.volume = null;
  removeTree(context, volumeDirectory(environment, entry.id));
  // Durably, while the backend still knows the volume: no start would ever look for the directory again.
  await environment.disk.syncDirectory(`${environment.dataDirectory}/volumes`);
  for (const { key } of await environment.store.list(keys.accountsPrefix(entry.id))) {
    await environment.store.delete(key);
  }
  await deleteSlots(context, entry.id);
  catalog.forget(entry);
}

async function unlinkClone(
  context: ServiceContext,
  parent: { volume: string; snapshot: string },
  clone: string,
): Promise<void> {
  const { catalog } = context;
  const entry = catalog.byId(parent.volume);
  if (entry === undefined) return;
  await catalog.exclusively([entry.id], async () => {
    await unlinkCloneOf(context, entry, parent.snapshot, clone);
  });
}

/** The caller holds the lock of the source's volume. */
async function unlinkCloneOf(
  context: ServiceContext,
  entry: Entry,
  snapshotId: string,
  clone: string,
): Promise<void> {
  const volume = await context.catalog.open(entry);
  const snapshot = findSnapshot(volume.state, snapshotId);
  if (snapshot === undefined) return;
  await volume.durableChange({ kind: 'cloneUnlinked', snapshot: snapshot.id, clone });
  const left = findSnapshot(volume.state, snapshot.id);
  if (left?.hidden === true && left.clones.length === 0) {
    await removeSnapshotData(context, entry, snapshot.id);
  }
}

/** The slot with the checkpoint that says so goes last: until then a start finds out that the volume is gone. */
async function deleteSlots(context: ServiceContext, id: string): Promise<void> {
  const { store } = context.environment;
  const history = await loadHistory(store, id);
  const checkpointSlot = history?.lastHeader.checkpointSlot ?? 0;
  const slots = (await store.list(keys.slotPrefix(id))).map(({ key }) => numberOfKey(key));
  const before = slots.filter((slot) => slot < checkpointSlot);
  const behind = slots.filter((slot) => slot > checkpointSlot).reverse();
  for (const slot of [...before, ...behind, checkpointSlot])
    await store.delete(keys.slot(id, slot));
}

function removeTree(context: ServiceContext, directory: string): void {
  const { disk } = context.environment;
  for (const name of disk.list(directory)) {
    for (const inner of disk.list(`${directory}/${name}`))
      disk.remove(`${directory}/${name}/${inner}`);
    disk.remove(`${directory}/${name}`);
  }
  disk.remove(directory);
}

/**
 * Finishes removals and clones that a crash or a failure interrupted: purges volumes that are gone, unlinks clones that
 * were never made and removes hidden snapshots that have none. What is in use now waits for the next time.
 */
export async function resumeRemovals(context: ServiceContext): Promise<void> {
  const { catalog } = context;
  for (const entry of catalog.entries) {
    if (!isUnfinished(context, entry)) continue;
    try {
      await catalog.exclusively([entry.id], async () => {
        await resumeRemoval(context, entry);
      });
    } catch (error) {
      if (hasCode(error, 'OPERATION_PENDING')) continue;
      const { logger } = context.environment;
      logger.error('finishing an interrupted removal failed', { volumeId: entry.id, error });
    }
  }
}

function isUnfinished(context: ServiceContext, entry: Entry): boolean {
  const state = context.catalog.stateOf(entry);
  if (isGone(state)) return true;
  return state.snapshots.some(
    (snapshot) =>
      lostClones(context, snapshot).length > 0 || (snapshot.hidden && snapshot.clones.length === 0),
  );
}

/** Clones that the snapshot is kept for, but that were never made or are gone. */
function lostClones({ catalog }: ServiceContext, snapshot: SnapshotState): string[] {
  return snapshot.clones.filter(
    (clone) => catalog.byId(clone) === undefined && !catalog.isDamaged(clone),
  );
}

/** The answer to making the clone was lost, not the clone: from now on it is known, and needs its source. */
async function wasMade(context: ServiceContext, clone: string): Promise<boolean> {
  const { catalog, environment } = context;
  const slots = await environment.store.list(keys.slotPrefix(clone), { limit: 1 });
  if (slots.length === 0) return false;
  await catalog.addExisting(clone);
  return true;
}

async function resumeRemoval(context: ServiceContext, entry: Entry): Promise<void> {
  const state = context.catalog.stateOf(entry);
  if (isGone(state)) {
    await purge(context, entry);
    return;
  }
  for (const snapshot of state.snapshots) {
    for (const clone of lostClones(context, snapshot)) {
      if (await wasMade(context, clone)) continue;
      await unlinkCloneOf(context, entry, snapshot.id, clone);
    }
    if (snapshot.hidden && snapshot.clones.length === 0) {
      await removeSnapshotData(context, entry, snapshot.id);
    }
  }
}
