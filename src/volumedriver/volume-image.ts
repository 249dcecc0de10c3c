/**
 * What a volume's log means: its state, map, space accounts and snapshots. The live volume and recovery apply the same
 * records to it through the same methods, so that what comes back after a crash is what was there before.
 */
import type { Clock } from '../base/clock.ts';
import { VolumeError } from '../volumes/errors.ts';
import { clusterBytes } from './format/constants.ts';
import type { StateChange, VolumeState } from './format/control.ts';
import type { ObjectReader } from './object-reader.ts';
import type { PagePool } from './map/page-pool.ts';
import type { PageSource, PersistedRoot } from './map/page.ts';
import { VolumeMap, type MappedRun } from './map/volume-map.ts';
import { SnapshotMap } from './snapshot-map.ts';
import type { SpaceAccounts } from './space-accounts.ts';
import { applyChange } from './state.ts';

/** Something that can be read: the head, or a snapshot. */
export interface MapView {
  lookup(cluster: number, count: number): MappedRun[] | Promise<MappedRun[]>;
}

export interface ImageOptions {
  pool: PagePool;
  reader: ObjectReader;
  clock: Clock;
  state: VolumeState;
  root: PersistedRoot | null;
  accounts: SpaceAccounts;
  /** Roots of the existing snapshots, by number. */
  snapshotRoots: ReadonlyMap<number, PersistedRoot | null>;
  onFailure(error: VolumeError): void;
}

/**
 * Intervals of the map are snapshot numbers plus a fraction that counts checkpoints, so that a checkpoint can tell
 * what the head stopped using before its cut from what came after.
 */
const cutFraction = 2 ** -28;

export class VolumeImage {
  readonly map: VolumeMap;
  readonly accounts: SpaceAccounts;
  readonly snapshotMaps = new Map<number, SnapshotMap>();
  /** Which slot holds the record of a snapshot, for those newer than the last checkpoint. */
  readonly snapshotSlots = new Map<string, number>();
  readonly #options: ImageOptions;
  #state: VolumeState;
  #interval: number;
  /** Of a running checkpoint: its own copy of the accounts, and the interval that began at its cut. */
  #cut: { accounts: SpaceAccounts; interval: number } | null = null;

  constructor(options: ImageOptions) {
    const { state, root, snapshotRoots } = options;
    this.#options = options;
    this.#state = state;
    this.#interval = state.snapshotNumber;
    this.accounts = options.accounts;
    for (const [number, snapshotRoot] of snapshotRoots) {
      this.snapshotMaps.set(number, new SnapshotMap({ root: snapshotRoot }, this.#openSnapshot));
    }
    this.map = this.#newMap(root, state.sizeBytes, (objectId, index, since) => {
      this.#release(objectId, index, since);
    });
  }

  get state(): VolumeState {
    return this.#state;
  }

  /** Birth of whatever is stored from now on. */
  get birth(): number {
    return this.#state.snapshotNumber;
  }

  applyWrite(cluster: number, objectId: number, index: number, checksums: Uint32Array): void {
    this.accounts.extendObject(objectId, index + checksums.length);
    this.map.setRun(cluster, objectId, index, checksums);
    this.#markWritten();
  }

  applyRange(cluster: number, count: number): void {
    this.map.clearRange(cluster, count);
    this.#markWritten();
  }

  /** Whether the map must be drained before applyChange of this kind. */
  static needsDrain(change: StateChange): boolean {
    return ['snapshotRemoved', 'rolledBack', 'removed'].includes(change.kind);
  }

  /** Applies a change that is in the log at `slot`. */
  applyChange(change: StateChange, slot: number): void {
    const before = this.#state;
    this.#state = applyChange(before, change);
    if (change.kind === 'resized') this.map.grow(clustersOf(change.sizeBytes));
    if (change.kind === 'snapshotTaken') this.#snapshotTaken(change.id, slot);
    if (change.kind === 'snapshotRemoved') this.#snapshotRemoved(numberOf(before, change.id));
    if (change.kind === 'rolledBack') this.#rolledBack(numberOf(before, change.id));
    if (change.kind === 'removed') this.#rolledBack(this.accounts.snapshots.at(-1) ?? 0);
  }

  /** A view of a snapshot's map, for as long as the snapshot exists. */
  snapshotView(number: number): MapView {
    const snapshot = this.snapshotMaps.get(number);
    if (snapshot !== undefined) return snapshot;
    throw new VolumeError('SNAPSHOT_NOT_FOUND', `reading snapshot number ${number}: it is gone`);
  }

  /** Begins a checkpoint: everything so far is in its copy of the accounts, and what comes later is not. */
  beginCut(): SpaceAccounts {
    const accounts = this.accounts.copy();
    this.#setInterval(this.#interval + cutFraction);
    this.#cut = { accounts, interval: this.#interval };
    return accounts;
  }

  endCut(): void {
    this.#cut = null;
  }

  /** A checkpoint stored map pages: an object of the live accounts and of the checkpoint's. */
  addMapObject(objectId: number, birth: number, pages: number): void {
    for (const accounts of [this.accounts, this.#cut?.accounts]) {
      if (accounts === undefined) continue;
      accounts.addObject(objectId, 'map', Math.floor(birth));
      accounts.extendObject(objectId, pages);
      accounts.sealObject(objectId);
    }
  }

  /** Gives the map's memory back. */
  close(): void {
    for (const number of [...this.snapshotMaps.keys()]) this.#dropSnapshotMap(number);
    this.map.close();
  }

  #markWritten(): void {
    if (!this.#state.written) this.#state = { ...this.#state, written: true };
  }

  #release(objectId: number, index: number, since: number): void {
    this.accounts.release(objectId, index, since);
    if (this.#cut !== null && since < this.#cut.interval) {
      this.#cut.accounts.release(objectId, index, since);
    }
  }

  #snapshotTaken(id: string, slot: number): void {
    const number = this.#state.snapshotNumber;
    this.snapshotMaps.set(
      number,
      new SnapshotMap({ frozen: this.map.freeze() }, this.#openSnapshot),
    );
    this.snapshotSlots.set(id, slot);
    this.accounts.snapshotTaken(number);
    this.#setInterval(number);
  }

  #snapshotRemoved(number: number): void {
    const previous = this.accounts.snapshots.findLast((other) => other < number) ?? 0;
    const latest = this.accounts.snapshots.at(-1) === number;
    if (this.#state.removed && latest) this.#rolledBack(previous);
    else this.accounts.snapshotRemoved(number);
    this.#dropSnapshotMap(number);
  }

  /** The head becomes that snapshot; with 0, which no snapshot has, it becomes empty. */
  #rolledBack(number: number): void {
    const target = this.snapshotMaps.get(number);
    const root = target?.frozen ?? target?.root ?? null;
    // Intervals of the snapshot's number and above came after it: the head gave nothing up in them any more.
    this.map.reset(root, clustersOf(this.#state.sizeBytes), number - cutFraction);
    this.accounts.rolledBack(number);
    for (const newer of [...this.snapshotMaps.keys()].filter((other) => other > number)) {
      this.#dropSnapshotMap(newer);
    }
    this.#setInterval(this.#interval);
  }

  #dropSnapshotMap(number: number): void {
    this.snapshotMaps.get(number)?.drop();
    this.snapshotMaps.delete(number);
  }

  #setInterval(interval: number): void {
    this.#interval = interval;
    this.map.setInterval(interval);
  }

  readonly #openSnapshot = (root: PersistedRoot | null): VolumeMap =>
    this.#newMap(root, this.#state.sizeBytes, () => undefined);

  #newMap(
    root: PersistedRoot | null,
    sizeBytes: number,
    onRelease: (objectId: number, index: number, since: number) => void,
  ): VolumeMap {
    const options = this.#options;
    const { pool, reader, clock } = options;
    const source: PageSource = {
      read: (objectId: number, index: number, into: Uint8Array) =>
        reader.read(objectId, index, into),
    };
    return new VolumeMap({
      pool,
      source,
      sizeClusters: clustersOf(sizeBytes),
      root,
      interval: this.#state.snapshotNumber,
      onRelease,
      onFailure: (error) => {
        options.onFailure(error);
      },
      clock,
    });
  }
}

export function clustersOf(bytes: number): number {
  return Math.ceil(bytes / clusterBytes);
}

function numberOf(state: VolumeState, snapshot: string): number {
  return state.snapshots.find((other) => other.id === snapshot)?.number ?? 0;
}
