/** What the backend's slots say, and which damage of them is noticed. */
import { beforeEach, describe, expect, test } from '@jest/globals';
import { headerOf, range, testVolume, tlogBytes } from '../../../test/support/tlog-bytes.ts';
import { MemoryStore } from '../store/memory-store.ts';
import type { VolumeState } from '../format/control.ts';
import type { LogRecord } from '../format/record.ts';
import type { TlogHeader } from '../format/tlog-header.ts';
import { keys } from '../keys.ts';
import { newVolumeState } from '../state.ts';
import { loadHistory, replayedTlogs } from './history.ts';

let store: MemoryStore;
beforeEach(() => {
  store = new MemoryStore();
});

const state = newVolumeState({
  id: testVolume,
  name: 'v',
  sizeBytes: 4096,
  createdAtMs: 1,
  flushTo: 'local',
  source: null,
  parent: null,
  written: false,
  formatting: null,
});

function checkpoint(replayFrom: number, of: VolumeState = state): LogRecord {
  const payload = {
    kind: 'checkpoint',
    replayFrom,
    state: of,
    root: null,
    snapshotRoots: [],
    accounts: null,
    doomed: [],
  };
  return { type: 'control', payload };
}

async function put(slot: number, bytes: Buffer): Promise<void> {
  await store.put(keys.slot(testVolume, slot), [bytes]);
}

async function putSlot(
  slot: number,
  records: LogRecord[] = [range(slot)],
  header: Partial<TlogHeader> = {},
): Promise<void> {
  await put(slot, tlogBytes(headerOf(slot, header), records, { sealed: true }));
}

async function replayed(): Promise<number[] | null> {
  const history = await loadHistory(store, testVolume);
  if (history === undefined) return null;
  const slots: number[] = [];
  for await (const tlog of replayedTlogs(store, history)) slots.push(tlog.header.slot);
  return slots;
}

async function refused(why: string): Promise<void> {
  await expect(replayed()).rejects.toMatchObject({
    code: 'CORRUPT',
    message: expect.stringContaining(why),
  });
}

describe('the history of a volume', () => {
  test('is none without a slot', async () => {
    await store.put(keys.slot('01ARZ3NDEKTSV4RRFFQ69G5FAW', 1), [Buffer.alloc(1)]);
    expect(await replayed()).toBeNull();
  });

  test('is every slot before the first checkpoint', async () => {
    for (const slot of [1, 2, 3]) await putSlot(slot);
    expect(await loadHistory(store, testVolume)).toMatchObject({
      lastSlot: 3,
      lastHeader: headerOf(3),
      checkpoint: null,
      replayFrom: 1,
    });
    expect(await replayed()).toEqual([1, 2, 3]);
  });

  test('is what follows the checkpoint that the last slot names, at whatever place', async () => {
    await putSlot(5, [range(5)], {});
    await putSlot(6, [range(6)], {});
    await putSlot(7, [checkpoint(6)], { checkpointSlot: 7 });
    expect(await replayed()).toEqual([6, 7]);
    await putSlot(8, [range(8)], { checkpointSlot: 7 });
    expect(await replayed()).toEqual([6, 7, 8]);
  });

  test('does not need slots below the checkpoint, nor mind that they are there', async () => {
    await put(3, Buffer.from('half deleted'));
    await putSlot(7, [checkpoint(7)], { checkpointSlot: 7 });
    expect(await replayed()).toEqual([7]);
  });

  test('is found among more slots than one listing gives', async () => {
    for (let slot = 1; slot <= 1001; slot++) await putSlot(slot, []);
    expect(await replayed()).toHaveLength(1001);
    await store.delete(keys.slot(testVolume, 1000));
    await refused('of its slots 1 to 1001 only 1000 exist');
  });

  test('of a volume that is gone is its checkpoint, whatever else is deleted already', async () => {
    const gone = { ...state, removed: true };
    await putSlot(7, [checkpoint(5, gone)], { checkpointSlot: 7 });
    expect(await loadHistory(store, testVolume)).toMatchObject({ lastSlot: 7, replayFrom: 8 });
    expect(await replayed()).toEqual([]);
  });
});

describe('a history is refused', () => {
  test.each([1, 2])('with slot %d missing', async (missing) => {
    for (const slot of [1, 2, 3]) if (slot !== missing) await putSlot(slot);
    await refused('of its slots 1 to 3 only 2 exist');
  });

  test.each<[string, Buffer]>([
    ['nothing in it', Buffer.alloc(0)],
    ['no header', Buffer.alloc(4096)],
    ['no end', tlogBytes(headerOf(2), [range(2)])],
    ['a wrong end', tlogBytes(headerOf(2), [range(2), { type: 'end', count: 7 }])],
    ['another slot in it', tlogBytes(headerOf(1), [], { sealed: true })],
    [
      "another volume's slot in it",
      tlogBytes(headerOf(2, { volume: '01ARZ3NDEKTSV4RRFFQ69G5FAW' }), [], { sealed: true }),
    ],
    ['a torn tail', tlogBytes(headerOf(2), [range(1)], { sealed: true }).subarray(0, -1)],
  ])('when a slot has %s, last or not', async (_, bytes) => {
    await putSlot(1);
    await put(2, bytes);
    await refused('slot 2 is damaged');
    await putSlot(3);
    await refused('slot 2 is damaged');
  });

  test('when the checkpoint that the last slot names is no checkpoint', async () => {
    await putSlot(1);
    await putSlot(2, [range(2)], { checkpointSlot: 1 });
    await refused('slot 1 has no checkpoint');
    await putSlot(3, [], { checkpointSlot: 3 });
    await refused('slot 3 has no checkpoint');
  });

  test('when the checkpoint that the last slot names does not exist', async () => {
    await putSlot(9, [range(9)], { checkpointSlot: 7 });
    await refused('slot 7 does not exist');
  });
});
