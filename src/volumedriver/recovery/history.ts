/** What the backend knows of a volume: its slots, the checkpoint to start from and the records since. */
import { VolumeError } from '../../volumes/errors.ts';
import { parseControl, type CheckpointRecord } from '../format/control.ts';
import { keys, numberOfKey } from '../keys.ts';
import { parseTlog, type ParsedTlog } from '../log/tlog-reader.ts';
import type { TlogHeader } from '../format/tlog-header.ts';
import { isGone } from '../state.ts';
import type { ObjectStore } from '../store/object-store.ts';

export interface History {
  volume: string;
  lastSlot: number;
  lastHeader: TlogHeader;
  checkpoint: CheckpointRecord | null;
  /** The first slot whose records are newer than the checkpoint. */
  replayFrom: number;
}

/** undefined when the volume has no slot. CORRUPT when slots are missing or damaged. */
export async function loadHistory(
  store: ObjectStore,
  volume: string,
): Promise<History | undefined> {
  const slots = await listSlots(store, volume);
  const lastSlot = slots.at(-1);
  if (lastSlot === undefined) return undefined;
  const last = await readSlot(store, volume, lastSlot);
  const checkpoint = await readCheckpoint(store, volume, last);
  // Its slots are being deleted, in whatever order that was interrupted.
  if (checkpoint !== null && isGone(checkpoint.state)) {
    return { volume, lastSlot, lastHeader: last.header, checkpoint, replayFrom: lastSlot + 1 };
  }
  const replayFrom = checkpoint?.replayFrom ?? 1;
  const present = slots.filter((slot) => slot >= replayFrom);
  if (present.length !== lastSlot - replayFrom + 1) {
    throw new VolumeError(
      'CORRUPT',
      `opening volume ${volume}: of its slots ${replayFrom} to ${lastSlot} only ${present.length} exist`,
    );
  }
  return { volume, lastSlot, lastHeader: last.header, checkpoint, replayFrom };
}

/** The TLogs to replay, oldest first. */
export async function* replayedTlogs(
  store: ObjectStore,
  history: History,
): AsyncGenerator<ParsedTlog> {
  for (let slot = history.replayFrom; slot <= history.lastSlot; slot++) {
    yield await readSlot(store, history.volume, slot);
  }
}

async function listSlots(store: ObjectStore, volume: string): Promise<number[]> {
  const slots: number[] = [];
  let startAfter: string | undefined;
  for (;;) {
    const options = startAfter === undefined ? { limit: 1000 } : { limit: 1000, startAfter };
    const page = await store.list(keys.slotPrefix(volume), options);
    slots.push(...page.map(({ key }) => numberOfKey(key)));
    startAfter = page.at(-1)?.key;
    if (page.length < 1000) return slots;
  }
}

async function readSlot(store: ObjectStore, volume: string, slot: number): Promise<ParsedTlog> {
  const bytes = await store.get(keys.slot(volume, slot));
  const tlog = bytes === undefined ? undefined : parseTlog(bytes);
  if (tlog?.sealed !== true || tlog.header.slot !== slot || tlog.header.volume !== volume) {
    const why = bytes === undefined ? 'does not exist' : 'is damaged';
    throw new VolumeError('CORRUPT', `opening volume ${volume}: slot ${slot} ${why}`);
  }
  return tlog;
}

async function readCheckpoint(
  store: ObjectStore,
  volume: string,
  last: ParsedTlog,
): Promise<CheckpointRecord | null> {
  const { checkpointSlot } = last.header;
  if (checkpointSlot === 0) return null;
  const tlog =
    checkpointSlot === last.header.slot ? last : await readSlot(store, volume, checkpointSlot);
  const first = tlog.records[0]?.record;
  const control = first?.type === 'control' ? parseControl(first.payload) : undefined;
  if (control?.kind === 'checkpoint') return control;
  throw new VolumeError(
    'CORRUPT',
    `opening volume ${volume}: slot ${checkpointSlot} has no checkpoint`,
  );
}
