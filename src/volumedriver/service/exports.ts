/**
 * The exports of a volumedriver: VOLUME while nobody holds a grant, VOLUME#GENERATION under that grant,
 * VOLUME@SNAPSHOT read-only. VOLUME and SNAPSHOT are ids or names, ids first.
 */
import { VolumeError } from '../../volumes/errors.ts';
import type { BlockDevice, ExportInfo, ExportProvider } from '../../volumes/block-device.ts';
import type { ObjectReader } from '../object-reader.ts';
import { SnapshotDevice, VolumeDevice } from '../volume-device.ts';
import type { Catalog, Entry } from './catalog.ts';

interface ParsedExport {
  entry: Entry;
  generation: number | null;
  snapshot: string | null;
}

export class VolumeExports implements ExportProvider {
  readonly #catalog: Catalog;
  readonly #reader: ObjectReader;

  constructor(catalog: Catalog, reader: ObjectReader) {
    this.#catalog = catalog;
    this.#reader = reader;
  }

  async open(exportName: string): Promise<BlockDevice> {
    const target = this.#parse(exportName);
    const volume = await this.#catalog.open(target.entry);
    if (target.snapshot !== null) {
      const snapshot = volume.state.snapshots.find(({ id }) => id === target.snapshot);
      if (snapshot === undefined || snapshot.hidden) throw noSnapshot(exportName);
      return new SnapshotDevice(volume, this.#reader, snapshot);
    }
    const { generation } = target;
    if (volume.state.removed) {
      throw new VolumeError(
        'VOLUME_NOT_FOUND',
        `opening ${JSON.stringify(exportName)}: it was removed`,
      );
    }
    const readOnly = this.#assertAccess(target.entry, generation);
    return new VolumeDevice(volume, this.#reader, { generation, readOnly });
  }

  async info(exportName: string): Promise<ExportInfo> {
    const { entry, generation, snapshot } = this.#parse(exportName);
    // An older state knows neither the last grant nor the last size: clients would take that for a refusal.
    this.#catalog.assertRecovered(entry, `describing ${JSON.stringify(exportName)}`);
    const state = this.#catalog.stateOf(entry);
    if (snapshot !== null) {
      const found = state.snapshots.find(({ id }) => id === snapshot);
      if (found === undefined) throw noSnapshot(exportName);
      const description = `snapshot ${found.name} of volume ${state.name}`;
      return { name: exportName, description, sizeBytes: found.sizeBytes, readOnly: true };
    }
    const readOnly = this.#assertAccess(entry, generation);
    const { sizeBytes } = state;
    const description = `volume ${state.name}`;
    return await Promise.resolve({ name: exportName, description, sizeBytes, readOnly });
  }

  async list(): Promise<ExportInfo[]> {
    const states = this.#catalog.entries.map((entry) => this.#catalog.stateOf(entry));
    const listed = states
      .filter(({ removed }) => !removed)
      .map(({ id, name, sizeBytes }) => ({
        name: id,
        description: `volume ${name}`,
        sizeBytes,
        readOnly: false,
      }));
    return await Promise.resolve(listed);
  }

  /** Ids first; then a whole name: '#' and '@' are legal in names of volumes. */
  #parse(exportName: string): ParsedExport {
    const whole = this.#startsWithId(exportName) ? undefined : this.#catalog.byName(exportName);
    if (whole !== undefined) return { entry: whole, generation: null, snapshot: null };
    const match = /^(.+)(?:#([0-9]{1,15})|@(.+))$/s.exec(exportName);
    if (match?.[1] === undefined) {
      return { entry: this.#catalog.find(exportName), generation: null, snapshot: null };
    }
    const [, volume, generation, snapshot] = match;
    if (snapshot !== undefined) return this.#parseSnapshot(volume, snapshot);
    return { entry: this.#catalog.find(volume), generation: Number(generation), snapshot: null };
  }

  #startsWithId(exportName: string): boolean {
    const ulid = this.#catalog.ulidOf(exportName.replace(/[#@].*$/s, ''));
    return ulid !== undefined && this.#catalog.byId(ulid) !== undefined;
  }

  /** The snapshot of a volume that was removed is found through the snapshot's own id. */
  #parseSnapshot(volume: string, snapshot: string): ParsedExport {
    const ulid = this.#catalog.ulidOf(snapshot);
    const byId = ulid === undefined ? undefined : this.#ownerOf(ulid);
    if (byId !== undefined && ulid !== undefined) {
      return { entry: byId, generation: null, snapshot: ulid };
    }
    const found = this.#catalog.findSnapshot({ volume, snapshot });
    return { entry: found.entry, generation: null, snapshot: found.snapshot.id };
  }

  #ownerOf(snapshot: string): Entry | undefined {
    return this.#catalog.entries.find((entry) =>
      this.#catalog.stateOf(entry).snapshots.some(({ id }) => id === snapshot),
    );
  }

  /** Whether the access is read-only. VOLUME_IN_USE, FENCED. */
  #assertAccess(entry: Entry, generation: number | null): boolean {
    const { grants, name, formatting } = this.#catalog.stateOf(entry);
    if (generation === null) {
      const [held] = grants;
      // Under the mark of an interrupted mkfs the next stage formats again: nobody may write something to keep there.
      if (held === undefined) return formatting !== null;
      throw new VolumeError(
        'VOLUME_IN_USE',
        `opening volume ${JSON.stringify(name)}: node ${held.node} has it`,
      );
    }
    const held = grants.find(({ exportGeneration }) => exportGeneration === generation);
    if (held !== undefined) return held.readOnly;
    throw new VolumeError(
      'FENCED',
      `opening volume ${JSON.stringify(name)}: generation ${generation} is not granted any more`,
    );
  }
}

function noSnapshot(exportName: string): VolumeError {
  return new VolumeError(
    'SNAPSHOT_NOT_FOUND',
    `opening ${JSON.stringify(exportName)}: no such snapshot`,
  );
}
