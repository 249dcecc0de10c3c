/** Creating, cloning, growing and removing volumes. */
import { VolumeError } from '../../volumes/errors.ts';
import type { CreateVolumeRequest, RemovalMode } from '../../volumes/volume-service.ts';
import type { Volume as VolumeFacts, VolumeSource } from '../../volumes/volume.ts';
import { checksumOf, encodeRecord, type LogRecord } from '../format/record.ts';
import type { SnapshotState, StateChange } from '../format/control.ts';
import { encodeTlogHeader, headerChecksum, linkOf, noNonce } from '../format/tlog-header.ts';
import { keys } from '../keys.ts';
import type { PersistedRoot } from '../map/page.ts';
import { isGone, newVolumeState, type VolumeState } from '../state.ts';
import { nameLock, type Entry } from './catalog.ts';
import { assertUnused, checkSize, describeVolume, type ServiceContext } from './context.ts';
import { checkName } from './naming.ts';
import { purgeIfPossible, removeSnapshotData } from './removal.ts';

/** What a new volume starts from. */
interface Origin {
  entry: Entry;
  snapshot: SnapshotState;
}

export async function createVolume(
  context: ServiceContext,
  request: CreateVolumeRequest,
): Promise<VolumeFacts> {
  const what = `creating volume ${JSON.stringify(request.name)}`;
  checkName(what, request.name);
  const sizeBytes = checkSize(what, request.sizeBytes);
  return await context.catalog.exclusively([nameLock(request.name)], async () => {
    const existing = context.catalog.byName(request.name);
    if (existing !== undefined) {
      assertSameRequest(context, existing, request, sizeBytes);
      return describeVolume(context, existing);
    }
    return await makeVolume(context, request, sizeBytes);
  });
}

function assertSameRequest(
  context: ServiceContext,
  entry: Entry,
  request: CreateVolumeRequest,
  sizeBytes: number,
): void {
  const state = context.catalog.stateOf(entry);
  const differs = (what: string): never => {
    throw new VolumeError(
      'ALREADY_EXISTS',
      `creating volume ${JSON.stringify(request.name)}: one of that name exists with another ${what}`,
    );
  };
  if (state.createdSizeBytes !== sizeBytes && state.sizeBytes !== sizeBytes) differs('size');
  if (sourceText(state.source) !== sourceText(request.source ?? null)) differs('source');
  const flushTo = request.flushTo ?? context.options.defaultFlushTo;
  if (state.flushTo !== flushTo) differs(`flushTo ('${state.flushTo}')`);
}

function sourceText(source: VolumeSource | null): string {
  if (source === null) return '';
  return source.kind === 'snapshot' ? `snapshot ${source.snapshotId}` : `volume ${source.volumeId}`;
}

async function makeVolume(
  context: ServiceContext,
  request: CreateVolumeRequest,
  sizeBytes: number,
): Promise<VolumeFacts> {
  const { source } = request;
  if (source === undefined) {
    const entry = await writeFirstSlot(context, request, { sizeBytes, source: null });
    return describeVolume(context, entry);
  }
  if (source.kind === 'snapshot') {
    const { entry, snapshot } = context.catalog.findSnapshot({ snapshot: source.snapshotId });
    return await context.catalog.exclusively([entry.id], async () => {
      return await cloneSnapshot(context, request, sizeBytes, { entry, snapshot });
    });
  }
  const entry = context.catalog.find(source.volumeId);
  return await context.catalog.exclusively([entry.id], async () => {
    return await cloneVolume(context, request, sizeBytes, entry);
  });
}

/** A clone of a volume is one of a hidden snapshot that is taken for it and goes with it. */
async function cloneVolume(
  context: ServiceContext,
  request: CreateVolumeRequest,
  sizeBytes: number,
  entry: Entry,
): Promise<VolumeFacts> {
  const volume = await context.catalog.open(entry);
  assertLargeEnough(request, sizeBytes, volume.sizeBytes);
  const id = context.newId();
  await volume.takeSnapshot({
    id,
    name: `.clone-${id}`,
    createdAtMs: context.environment.clock.now(),
    claimed: false,
    hidden: true,
  });
  const snapshot = volume.state.snapshots.find((other) => other.id === id);
  if (snapshot === undefined) throw new VolumeError('INTERNAL', 'cloning: the snapshot vanished');
  try {
    return await cloneSnapshot(context, request, sizeBytes, { entry, snapshot });
  } catch (error) {
    const left = volume.state.snapshots.find((other) => other.id === id);
    if (left?.clones.length === 0) await removeSnapshotData(context, entry, id);
    throw error;
  }
}

async function cloneSnapshot(
  context: ServiceContext,
  request: CreateVolumeRequest,
  sizeBytes: number,
  { entry, snapshot }: Origin,
): Promise<VolumeFacts> {
  assertLargeEnough(request, sizeBytes, snapshot.sizeBytes);
  const volume = await context.catalog.open(entry);
  const root = await volume.persistedRoot(snapshot);
  const claim = await claimName(context, request.name);
  const link = { snapshot: snapshot.id, clone: claim };
  await volume.durableChange({ kind: 'cloneLinked', ...link });
  // In the backend, too: whoever loses the data directory must not take the clone's source for unused.
  await volume.commitAll();
  const made = await writeFirstSlot(context, request, {
    id: claim,
    sizeBytes,
    source: request.source ?? null,
    parent: { volume: entry.id, snapshot: snapshot.id },
    root,
    written: snapshot.written,
    formatting: snapshot.formatting,
  });
  return describeVolume(context, made);
}

function assertLargeEnough(request: CreateVolumeRequest, sizeBytes: number, least: number): void {
  if (sizeBytes >= least) return;
  throw new VolumeError(
    'OUT_OF_RANGE',
    `creating volume ${JSON.stringify(request.name)}: ${sizeBytes} bytes are less than its source has, ${least}`,
  );
}

/** Takes the name, or finds the id that an interrupted attempt took for it. Returns the new volume's ULID. */
async function claimName(context: ServiceContext, name: string): Promise<string> {
  const { store } = context.environment;
  const key = keys.volumeName(name);
  const id = context.newId();
  if (await store.putIfAbsent(key, [Buffer.from(JSON.stringify({ name, id }))])) return id;
  const bytes = await store.get(key);
  const record = bytes === undefined ? undefined : (JSON.parse(bytes.toString('utf8')) as unknown);
  const taken = (record as { id?: unknown } | undefined)?.id;
  if (typeof taken !== 'string') {
    throw new VolumeError('UNAVAILABLE', `claiming the name ${JSON.stringify(name)}: try again`);
  }
  context.catalog.assertIntact(taken);
  const entry = context.catalog.byId(taken);
  if (entry === undefined || !context.catalog.stateOf(entry).removed) return taken;
  await store.delete(key); // a removal did not get that far
  return await claimName(context, name);
}

interface FirstState {
  id?: string;
  sizeBytes: number;
  source: VolumeSource | null;
  parent?: { volume: string; snapshot: string };
  root?: PersistedRoot | null;
  written?: boolean;
  formatting?: string | null;
}

/** The volume exists from the moment its first slot does. */
async function writeFirstSlot(
  context: ServiceContext,
  request: CreateVolumeRequest,
  first: FirstState,
): Promise<Entry> {
  const { environment, options, catalog } = context;
  const id = first.id ?? (await claimName(context, request.name));
  const state = newVolumeState({
    id,
    name: request.name,
    sizeBytes: first.sizeBytes,
    createdAtMs: environment.clock.now(),
    flushTo: request.flushTo ?? options.defaultFlushTo,
    source: first.source,
    parent: first.parent ?? null,
    written: first.written ?? false,
    formatting: first.formatting ?? null,
  });
  const slot = firstSlot(context, state, first.root ?? null);
  if (await environment.store.putIfAbsent(keys.slot(id, 1), slot)) return catalog.add(id, state, 0);
  // An attempt whose answer was lost has made it: what that one asked for counts.
  const entry = await catalog.addExisting(id);
  assertSameRequest(context, entry, request, first.sizeBytes);
  return entry;
}

function firstSlot(
  context: ServiceContext,
  state: VolumeState,
  root: PersistedRoot | null,
): Buffer[] {
  const header = encodeTlogHeader({
    volume: state.id,
    slot: 1,
    epoch: 0,
    writer: 0,
    checkpointSlot: 0,
    boundary: 0,
    nonce: context.environment.random.bytes(16).toString('hex'),
    replaces: noNonce,
    previous: linkOf(noNonce),
  });
  const created: StateChange = { kind: 'created', state, root };
  const records: LogRecord[] = [
    { type: 'control', payload: created },
    { type: 'end', count: 1 },
  ];
  let seed = headerChecksum(header);
  const encoded = records.map((record) => {
    const bytes = encodeRecord(record, seed);
    seed = checksumOf(bytes);
    return bytes;
  });
  return [header, ...encoded];
}

export async function removeVolume(
  context: ServiceContext,
  ref: string,
  mode: RemovalMode,
): Promise<void> {
  const { catalog, environment } = context;
  const entry = catalog.find(ref);
  const { name } = catalog.stateOf(entry);
  const what = `removing volume ${JSON.stringify(name)}`;
  await catalog.exclusively([entry.id, nameLock(name)], async () => {
    const volume = await catalog.open(entry);
    assertUnused(what, volume.state, volume);
    if (mode === 'strict') assertChildless(what, volume.state);
    await volume.durableChange({ kind: 'removed' });
    volume.revokeClients(
      ({ snapshot }) => snapshot === null,
      new VolumeError('VOLUME_NOT_FOUND', `using volume ${JSON.stringify(name)}: it was removed`),
    );
    await environment.store.delete(keys.volumeName(name));
    if (isGone(volume.state)) await purgeIfPossible(context, entry);
  });
}

function assertChildless(what: string, state: VolumeState): void {
  const snapshots = state.snapshots.filter(({ hidden }) => !hidden).length;
  const clones = state.snapshots.flatMap((snapshot) => snapshot.clones).length;
  if (snapshots + clones === 0) return;
  throw new VolumeError('HAS_CLONES', `${what}: snapshots of it: ${snapshots}, clones: ${clones}`);
}

export async function growVolume(
  context: ServiceContext,
  ref: string,
  sizeBytes: number,
): Promise<VolumeFacts> {
  const { catalog } = context;
  const entry = catalog.find(ref);
  const what = `growing volume ${JSON.stringify(catalog.stateOf(entry).name)}`;
  const wanted = checkSize(what, sizeBytes);
  return await catalog.exclusively([entry.id], async () => {
    const volume = await catalog.open(entry);
    if (wanted < volume.sizeBytes) {
      throw new VolumeError(
        'OUT_OF_RANGE',
        `${what}: it has ${volume.sizeBytes} bytes, and a volume never shrinks`,
      );
    }
    if (wanted > volume.sizeBytes)
      await volume.durableChange({ kind: 'resized', sizeBytes: wanted });
    return describeVolume(context, entry);
  });
}
