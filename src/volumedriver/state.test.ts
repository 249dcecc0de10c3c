/** What each change of state does, on its own and in order. */
import { describe, expect, test } from '@jest/globals';
import {
  applyChange,
  findSnapshot,
  foldRecord,
  newVolumeState,
  type StateChange,
  type VolumeState,
} from './state.ts';

const [id, one, two, clone] = ['V', '1', '2', 'C'].map((letter) => letter.repeat(26)) as [
  string,
  string,
  string,
  string,
];

const fresh = newVolumeState({
  id,
  name: 'v',
  sizeBytes: 8192,
  createdAtMs: 5,
  flushTo: 'local',
  source: null,
  parent: null,
  written: false,
  formatting: null,
});

function after(...changes: StateChange[]): VolumeState {
  let state = fresh;
  for (const change of changes) {
    const before = JSON.stringify(state);
    const next = applyChange(state, change);
    expect(JSON.stringify(state)).toBe(before); // never changed in place
    state = next;
  }
  return state;
}

function taken(snapshot: string, fields: { hidden?: boolean } = {}): StateChange {
  const { hidden = false } = fields;
  return {
    kind: 'snapshotTaken',
    id: snapshot,
    name: `name of ${snapshot}`,
    createdAtMs: 9,
    claimed: true,
    hidden,
  };
}

function granted(node: string, generation: number, readOnly = false): StateChange {
  return { kind: 'granted', node, readOnly, generation };
}

describe('a new volume', () => {
  test('has nothing yet', () => {
    expect(fresh).toMatchObject({ grants: [], generation: 0, snapshots: [], removed: false });
    expect(fresh.createdSizeBytes).toBe(8192);
  });

  test('is created once, and before anything else', () => {
    const created: StateChange = { kind: 'created', state: fresh, root: null };
    expect(applyChange(null, created)).toEqual(fresh);
    for (const [state, change] of [
      [fresh, created],
      [null, { kind: 'removed' }],
    ] as const) {
      expect(() => applyChange(state, change)).toThrow(
        expect.objectContaining({ code: 'CORRUPT' }),
      );
    }
  });
});

describe('changes', () => {
  test('of the size keep what was asked for at first', () => {
    expect(after({ kind: 'resized', sizeBytes: 16_384 })).toMatchObject({
      sizeBytes: 16_384,
      createdSizeBytes: 8192,
    });
  });

  test('of grants name exports after their generation', () => {
    expect(after(granted('a', 1, true), granted('b', 2, true))).toMatchObject({
      generation: 2,
      grants: [
        { node: 'a', readOnly: true, generation: 1, exportGeneration: 1 },
        { node: 'b', readOnly: true, generation: 2, exportGeneration: 2 },
      ],
    });
  });

  test('grant a node once', () => {
    expect(after(granted('a', 1, true), granted('a', 2)).grants).toEqual([
      { node: 'a', readOnly: false, generation: 2, exportGeneration: 2 },
    ]);
  });

  test('revoke from one node or from all, raising the generation', () => {
    const both = [granted('a', 1, true), granted('b', 2, true)];
    const one = after(...both, { kind: 'revoked', node: 'a', generation: 3 });
    expect(one).toMatchObject({ generation: 3, grants: [{ node: 'b', generation: 2 }] });
    const none = after(...both, { kind: 'revoked', node: null, generation: 3 });
    expect(none).toMatchObject({ generation: 3, grants: [] });
  });

  test('that lost writes rename exports, and leave published generations as they are', () => {
    const raised: StateChange = { kind: 'generationRaised', generation: 9, reason: 'a cut' };
    expect(after(granted('a', 1), raised)).toMatchObject({
      generation: 9,
      grants: [{ node: 'a', generation: 1, exportGeneration: 9 }],
    });
    expect(after(raised, granted('a', 10))).toMatchObject({
      generation: 10,
      grants: [{ node: 'a', generation: 10, exportGeneration: 10 }],
    });
  });

  test('of the formatting mark end in a volume that was written', () => {
    const begun = after({ kind: 'formattingBegun', filesystem: 'ext4' });
    expect(begun).toMatchObject({ formatting: 'ext4', written: false });
    const ended = applyChange(begun, { kind: 'formattingEnded' });
    expect(ended).toMatchObject({ formatting: null, written: true });
  });

  test('that remove leave the snapshots', () => {
    const state = after(granted('a', 1), taken(one), { kind: 'removed' });
    expect(state).toMatchObject({ removed: true, grants: [], snapshots: [{ id: one }] });
  });
});

describe('snapshots', () => {
  test('are numbered, never twice, and keep the values of their moment', () => {
    const state = after(
      taken(one),
      { kind: 'resized', sizeBytes: 16_384 },
      { kind: 'formattingBegun', filesystem: 'xfs' },
      { kind: 'snapshotRemoved', id: one },
      taken(two, { hidden: true }),
    );
    expect(state.snapshotNumber).toBe(2);
    expect(state.snapshots).toEqual([
      {
        id: two,
        name: `name of ${two}`,
        number: 2,
        createdAtMs: 9,
        sizeBytes: 16_384,
        claimed: true,
        hidden: true,
        written: false,
        formatting: 'xfs',
        clones: [],
      },
    ]);
  });

  test('are hidden, and found nevertheless', () => {
    const state = after(taken(one), { kind: 'snapshotHidden', id: one });
    expect(findSnapshot(state, one)?.hidden).toBe(true);
    expect(findSnapshot(state, two)).toBeUndefined();
  });

  test('know their clones, each once', () => {
    const linked: StateChange = { kind: 'cloneLinked', snapshot: one, clone };
    const state = after(taken(one), linked, linked);
    expect(findSnapshot(state, one)?.clones).toEqual([clone]);
    const unlinked: StateChange = { kind: 'cloneUnlinked', snapshot: one, clone };
    expect(findSnapshot(applyChange(state, unlinked), one)?.clones).toEqual([]);
    expect(findSnapshot(after(taken(one), unlinked), one)?.clones).toEqual([]);
  });

  test('are rolled back to: newer ones go, the size and the numbering stay', () => {
    const state = after(
      taken(one),
      { kind: 'formattingBegun', filesystem: 'ext4' },
      { kind: 'formattingEnded' },
      taken(two),
      { kind: 'resized', sizeBytes: 16_384 },
      { kind: 'rolledBack', id: one },
    );
    expect(state).toMatchObject({ sizeBytes: 16_384, written: false, formatting: null });
    expect(state.snapshots.map((snapshot) => snapshot.id)).toEqual([one]);
    expect(applyChange(state, taken(two)).snapshots.at(-1)?.number).toBe(3);
  });

  test.each<StateChange>([
    { kind: 'snapshotHidden', id: two },
    { kind: 'snapshotRemoved', id: two },
    { kind: 'rolledBack', id: two },
    { kind: 'cloneLinked', snapshot: two, clone },
    { kind: 'cloneUnlinked', snapshot: two, clone },
  ])('that do not exist make a $kind record damage', (change) => {
    expect(() => after(taken(one), change)).toThrow(
      expect.objectContaining({
        code: 'CORRUPT',
        message: `applying a '${change.kind}' record: snapshot ${two} does not exist`,
      }),
    );
  });
});

describe('a fold of records', () => {
  const control = (payload: unknown) => ({ type: 'control', payload }) as const;

  test('takes a write and a discard for use of the volume', () => {
    const range = { type: 'range', cluster: 0, count: 1 } as const;
    const write = {
      type: 'write',
      cluster: 0,
      objectId: 2 ** 20,
      index: 0,
      checksums: Uint32Array.of(1),
    } as const;
    for (const record of [range, write]) {
      expect(foldRecord(fresh, record)?.written).toBe(true);
      expect(foldRecord(null, record)).toBeNull();
    }
  });

  test('applies changes, and leaves out what changes no state', () => {
    expect(foldRecord(fresh, control({ kind: 'removed' }))?.removed).toBe(true);
    expect(foldRecord(fresh, { type: 'end', count: 1 })).toBe(fresh);
    expect(foldRecord(fresh, { type: 'sync', slot: 1, offset: 1 })).toBe(fresh);
  });

  test('refuses what is no control record', () => {
    expect(() => foldRecord(fresh, control({ kind: 'compacted' }))).toThrow(
      expect.objectContaining({ code: 'CORRUPT' }),
    );
  });
});
