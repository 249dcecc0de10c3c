/**
 * A volume's state apart from its map: what the control records of its log say, applied one after another. Pure:
 * the same records always give the same state, live and in recovery.
 */
import { assert } from '../base/assert.ts';
import { VolumeError } from '../volumes/errors.ts';
import {
  parseControl,
  type SnapshotState,
  type StateChange,
  type VolumeState,
} from './format/control.ts';
import type { LogRecord } from './format/record.ts';

export type { SnapshotState, StateChange, VolumeState } from './format/control.ts';

/** The state after `change`; CORRUPT when the change does not fit (a damaged or reordered log). */
export function applyChange(state: VolumeState | null, change: StateChange): VolumeState {
  if (change.kind === 'created') {
    if (state !== null) throw misfit(change, 'the volume exists already');
    return change.state;
  }
  if (state === null) throw misfit(change, 'the volume does not exist yet');
  switch (change.kind) {
    case 'resized':
      return { ...state, sizeBytes: change.sizeBytes };
    case 'granted':
      return withGrant(state, change);
    case 'revoked':
      return {
        ...state,
        generation: change.generation,
        grants: state.grants.filter((grant) => change.node !== null && grant.node !== change.node),
      };
    case 'generationRaised':
      return {
        ...state,
        generation: change.generation,
        grants: state.grants.map((grant) => ({ ...grant, exportGeneration: change.generation })),
      };
    case 'formattingBegun':
      return { ...state, formatting: change.filesystem };
    case 'formattingEnded':
      return { ...state, formatting: null, written: true };
    case 'removed':
      return { ...state, removed: true, grants: [] };
    default:
      return applySnapshotChange(state, change);
  }
}

/** Nothing of the volume is needed any more: neither itself nor a snapshot of it. */
export function isGone(state: VolumeState): boolean {
  return state.removed && state.snapshots.length === 0;
}

/** The state after a record of any kind, for readers that need no map. CORRUPT as applyChange. */
export function foldRecord(state: VolumeState | null, record: LogRecord): VolumeState | null {
  if (record.type === 'write' || record.type === 'range') {
    return state === null ? null : { ...state, written: true };
  }
  if (record.type !== 'control') return state;
  const control = parseControl(record.payload);
  return control.kind === 'checkpoint' ? state : applyChange(state, control);
}

type SnapshotChange = Extract<
  StateChange,
  {
    kind:
      | 'snapshotTaken'
      | 'snapshotHidden'
      | 'snapshotRemoved'
      | 'rolledBack'
      | 'cloneLinked'
      | 'cloneUnlinked';
  }
>;

function applySnapshotChange(state: VolumeState, change: SnapshotChange): VolumeState {
  switch (change.kind) {
    case 'snapshotTaken':
      return withSnapshot(state, change);
    case 'snapshotHidden':
      return mapSnapshot(state, change.id, change, (snapshot) => ({ ...snapshot, hidden: true }));
    case 'snapshotRemoved':
      existing(state, change.id, change);
      return {
        ...state,
        snapshots: state.snapshots.filter((snapshot) => snapshot.id !== change.id),
      };
    case 'rolledBack': {
      const target = existing(state, change.id, change);
      const snapshots = state.snapshots.filter((snapshot) => snapshot.number <= target.number);
      return { ...state, snapshots, written: target.written, formatting: target.formatting };
    }
    case 'cloneLinked':
      return mapSnapshot(state, change.snapshot, change, (snapshot) => ({
        ...snapshot,
        clones: [...snapshot.clones.filter((clone) => clone !== change.clone), change.clone],
      }));
    case 'cloneUnlinked':
      return mapSnapshot(state, change.snapshot, change, (snapshot) => ({
        ...snapshot,
        clones: snapshot.clones.filter((clone) => clone !== change.clone),
      }));
  }
}

function withGrant(
  state: VolumeState,
  change: Extract<StateChange, { kind: 'granted' }>,
): VolumeState {
  const { node, readOnly, generation } = change;
  const others = state.grants.filter((grant) => grant.node !== node);
  return {
    ...state,
    generation,
    grants: [...others, { node, readOnly, generation, exportGeneration: generation }],
  };
}

function withSnapshot(
  state: VolumeState,
  change: Extract<StateChange, { kind: 'snapshotTaken' }>,
): VolumeState {
  const number = state.snapshotNumber + 1;
  const snapshot: SnapshotState = {
    id: change.id,
    name: change.name,
    number,
    createdAtMs: change.createdAtMs,
    sizeBytes: state.sizeBytes,
    claimed: change.claimed,
    hidden: change.hidden,
    written: state.written,
    formatting: state.formatting,
    clones: [],
  };
  return { ...state, snapshotNumber: number, snapshots: [...state.snapshots, snapshot] };
}

function mapSnapshot(
  state: VolumeState,
  id: string,
  change: StateChange,
  update: (snapshot: SnapshotState) => SnapshotState,
): VolumeState {
  existing(state, id, change);
  const snapshots = state.snapshots.map((snapshot) =>
    snapshot.id === id ? update(snapshot) : snapshot,
  );
  return { ...state, snapshots };
}

function existing(state: VolumeState, id: string, change: StateChange): SnapshotState {
  const snapshot = findSnapshot(state, id);
  if (snapshot === undefined) throw misfit(change, `snapshot ${id} does not exist`);
  return snapshot;
}

function misfit(change: StateChange, why: string): VolumeError {
  return new VolumeError('CORRUPT', `applying a '${change.kind}' record: ${why}`);
}

/** By ULID, hidden ones too. */
export function findSnapshot(state: VolumeState, id: string): SnapshotState | undefined {
  return state.snapshots.find((snapshot) => snapshot.id === id);
}

/** The state of a volume that has just been created. */
export function newVolumeState(
  fields: Pick<
    VolumeState,
    | 'id'
    | 'name'
    | 'sizeBytes'
    | 'createdAtMs'
    | 'flushTo'
    | 'source'
    | 'parent'
    | 'written'
    | 'formatting'
  >,
): VolumeState {
  assert(fields.sizeBytes > 0, 'a volume has a size');
  return {
    ...fields,
    createdSizeBytes: fields.sizeBytes,
    grants: [],
    generation: 0,
    snapshotNumber: 0,
    snapshots: [],
    removed: false,
  };
}
