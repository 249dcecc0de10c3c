/** Who may use a volume: grants and their generations, exports, and the formatting mark. */
import { VolumeError } from '../../volumes/errors.ts';
import type { ExportTarget } from '../../volumes/volume-service.ts';
import type { ExportAddress } from '../../volumes/volume.ts';
import type { VolumeState } from '../format/control.ts';
import type { Volume } from '../volume.ts';
import type { Entry } from './catalog.ts';
import { assertUnused, type ServiceContext } from './context.ts';

type Grant = VolumeState['grants'][number];

export async function grant(
  context: ServiceContext,
  ref: string,
  node: string,
  readOnly: boolean,
): Promise<number> {
  const { catalog } = context;
  if (node === '')
    throw new VolumeError('INVALID_ARGUMENT', 'granting a volume: the node is empty');
  const entry = catalog.find(ref);
  return await catalog.exclusively([entry.id], async () => {
    const volume = await catalog.open(entry);
    const { state } = volume;
    const own = state.grants.find((other) => other.node === node);
    if (own?.readOnly === readOnly) return own.generation;
    if (own !== undefined) {
      const mode = own.readOnly ? 'read-only' : 'read-write';
      throw new VolumeError('ALREADY_EXISTS', `granting a volume: ${node} has it ${mode} already`);
    }
    const other = state.grants.find((held) => !held.readOnly || !readOnly);
    if (other !== undefined) {
      throw new VolumeError('VOLUME_IN_USE', `granting a volume: node ${other.node} has it`);
    }
    if (state.grants.length === 0) assertUnused('granting a volume', state, volume);
    const generation = state.generation + 1;
    await volume.durableChange({ kind: 'granted', node, readOnly, generation });
    dropFenced(volume);
    return generation;
  });
}

export async function revoke(
  context: ServiceContext,
  ref: string,
  node: string | null,
): Promise<void> {
  const { catalog } = context;
  const entry = catalog.find(ref);
  await catalog.exclusively([entry.id], async () => {
    const { grants } = catalog.stateOf(entry);
    if (!grants.some((held) => node === null || held.node === node)) return;
    const volume = await catalog.open(entry);
    await volume.flush(); // drain before fence
    const generation = volume.state.generation + 1;
    await volume.durableChange({ kind: 'revoked', node, generation });
    dropFenced(volume);
  });
}

/** Clients of generations that nobody holds any more are dropped. */
function dropFenced(volume: Volume): void {
  const current = new Set(volume.state.grants.map(({ exportGeneration }) => exportGeneration));
  volume.revokeClients(
    ({ generation }) => generation !== null && !current.has(generation),
    new VolumeError('FENCED', 'using a volume: its grant was taken back'),
  );
}

export function getExport(context: ServiceContext, target: ExportTarget): ExportAddress {
  const { catalog, options } = context;
  if (target.kind === 'snapshot') {
    const { entry, snapshot } = catalog.findSnapshot(target.snapshot);
    const exportName = `${entry.id}@${snapshot.id}`;
    const uri = options.exportUri(exportName);
    return { exportName, uri, sizeBytes: snapshot.sizeBytes, readOnly: true };
  }
  const entry = catalog.find(target.volume);
  const { sizeBytes } = catalog.stateOf(entry);
  if (target.kind === 'plain') {
    return { exportName: entry.id, uri: options.exportUri(entry.id), sizeBytes, readOnly: false };
  }
  const held = findGrant(context, entry, target.generation);
  const exportName = `${entry.id}#${held.exportGeneration}`;
  return { exportName, uri: options.exportUri(exportName), sizeBytes, readOnly: held.readOnly };
}

/** The grant that ControllerPublish gave that generation to. FENCED when it is held no more. */
function findGrant(context: ServiceContext, entry: Entry, generation: number): Grant {
  const held = context.catalog
    .stateOf(entry)
    .grants.find((other) => other.generation === generation);
  if (held !== undefined) return held;
  throw new VolumeError(
    'FENCED',
    `using a volume: generation ${generation} is not granted any more; publish the volume to the node again`,
  );
}

export async function beginFormatting(
  context: ServiceContext,
  ref: string,
  generation: number,
  filesystem: string,
): Promise<void> {
  const { catalog } = context;
  const entry = catalog.find(ref);
  await catalog.exclusively([entry.id], async () => {
    if (findGrant(context, entry, generation).readOnly) {
      throw new VolumeError('READ_ONLY', 'formatting: the volume is granted read-only');
    }
    const volume = await catalog.open(entry);
    const { name, written, formatting } = volume.state;
    if (written && formatting === null) {
      throw new VolumeError(
        'NOT_CAPABLE',
        `formatting: volume ${JSON.stringify(name)} has been written, and only one that never was may be formatted`,
      );
    }
    if (formatting !== filesystem) {
      await volume.durableChange({ kind: 'formattingBegun', filesystem });
    }
  });
}

export async function endFormatting(
  context: ServiceContext,
  ref: string,
  generation: number,
): Promise<void> {
  const { catalog } = context;
  const entry = catalog.find(ref);
  await catalog.exclusively([entry.id], async () => {
    findGrant(context, entry, generation);
    const volume = await catalog.open(entry);
    if (volume.state.formatting === null) return;
    await volume.flush(); // what mkfs wrote comes before the word that it is whole
    await volume.durableChange({ kind: 'formattingEnded' });
  });
}
