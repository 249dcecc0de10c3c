/**
 * The space accounts against what can be reached: every cluster of a volume's own data objects is either reachable from
 * its head or one of its snapshots, or freed, and never both; what can be reached exists; and the store holds nothing
 * that no account knows.
 */
import { indexOf, locationLow } from '../../src/volumedriver/format/location.ts';
import type { MapView } from '../../src/volumedriver/volume-image.ts';
import type { Volume } from '../../src/volumedriver/volume.ts';
import { keys } from '../../src/volumedriver/keys.ts';
import type { EngineFixture } from './engine-fixture.ts';

const clustersPerLookup = 2 ** 18;

type Reachable = Map<number, Set<number>>;

async function walk(view: MapView, sizeBytes: number, found: Reachable): Promise<void> {
  const clusters = sizeBytes / 4096;
  for (let at = 0; at < clusters; at += clustersPerLookup) {
    const runs = await view.lookup(at, Math.min(clustersPerLookup, clusters - at));
    for (const { objectId, index, clusterCount } of runs) {
      if (objectId === 0) continue;
      let set = found.get(objectId);
      if (set === undefined) found.set(objectId, (set = new Set()));
      for (let i = 0; i < clusterCount; i++) set.add(indexOf(locationLow(objectId, index + i)));
    }
  }
}

async function reachableFrom(volume: Volume): Promise<Reachable> {
  const found: Reachable = new Map();
  const { state } = volume;
  if (!state.removed) await walk(volume.head, state.sizeBytes, found);
  for (const snapshot of state.snapshots) {
    await walk(volume.snapshotView(snapshot), snapshot.sizeBytes, found);
  }
  return found;
}

/** Problems of the accounts; none when all is well. Opens every volume. Nothing may be written meanwhile. */
export async function accountProblems(fixture: EngineFixture): Promise<string[]> {
  const problems: string[] = [];
  const owners = new Map<number, Volume>();
  const open: Volume[] = [];
  for (const entry of fixture.service.catalog.entries) {
    const volume = await fixture.service.catalog.open(entry);
    await volume.image.map.drained();
    open.push(volume);
    for (const objectId of volume.image.accounts.objects.keys()) owners.set(objectId, volume);
  }
  for (const volume of open) {
    const reachable = await reachableFrom(volume);
    problems.push(...freedButUsed(volume, reachable, owners), ...lost(volume, reachable));
    const { accounts } = volume.image;
    let used = 0;
    for (const { count, freed } of accounts.objects.values()) used += count - freed.size;
    if (used * 4096 !== accounts.usedBytes) {
      problems.push(`${volume.state.name}: ${accounts.usedBytes} bytes are said to be used`);
    }
  }
  return problems.slice(0, 10);
}

/** What a map reaches belongs to an object of some volume, and is not free. */
function freedButUsed(
  { state }: Volume,
  reachable: Reachable,
  owners: ReadonlyMap<number, Volume>,
): string[] {
  const problems: string[] = [];
  for (const [objectId, clusters] of reachable) {
    const account = owners.get(objectId)?.image.accounts.objects.get(objectId);
    if (account === undefined) problems.push(`${state.name}: ${objectId} has no owner`);
    for (const index of clusters) {
      if (account?.freed.has(index) !== true) continue;
      problems.push(`${state.name}: cluster ${index} of ${objectId} is freed and used`);
    }
  }
  return problems;
}

/** A cluster that no map of its volume reaches is free. */
function lost({ state, image }: Volume, reachable: Reachable): string[] {
  const problems: string[] = [];
  for (const [objectId, account] of image.accounts.objects) {
    if (account.kind !== 'data') continue;
    const used = reachable.get(objectId);
    for (let index = 0; index < account.count; index++) {
      if (used?.has(index) === true || account.freed.has(index)) continue;
      problems.push(`${state.name}: cluster ${index} of ${objectId} is lost`);
    }
  }
  return problems;
}

/** Objects in the store that no account of any volume knows. All volumes are open and have just been checkpointed. */
export async function strayObjects(fixture: EngineFixture): Promise<string[]> {
  const known = new Set<string>();
  for (const { volume } of fixture.service.catalog.entries) {
    for (const objectId of volume?.image.accounts.objects.keys() ?? []) {
      known.add(keys.object(objectId));
    }
  }
  const stored = await fixture.store.list('objects/', { limit: 100_000 });
  return stored.map(({ key }) => key).filter((key) => !known.has(key));
}
