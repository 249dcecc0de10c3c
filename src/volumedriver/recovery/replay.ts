/** Rebuilds a volume's image from the backend: the last checkpoint, then the records of newer slots in order. */
import { VolumeError } from '../../volumes/errors.ts';
import type { Environment } from '../environment.ts';
import { decodeAccounts } from '../format/accounts-blob.ts';
import { parseControl, type CheckpointRecord, type VolumeState } from '../format/control.ts';
import type { LogRecord } from '../format/record.ts';
import type { ParsedTlog } from '../log/tlog-reader.ts';
import type { PersistedRoot } from '../map/page.ts';
import { replayCost } from '../replay-cost.ts';
import { SpaceAccounts } from '../space-accounts.ts';
import { VolumeImage } from '../volume-image.ts';
import { isGone } from '../state.ts';
import { replayedTlogs, type History } from './history.ts';

export interface Replayed {
  image: VolumeImage;
  /** Bytes of records that the next open would replay as well. */
  replayedBytes: number;
}

type WriteRecord = Extract<LogRecord, { type: 'write' }>;

/** CORRUPT when a record does not fit. `onFailure` is the image's, for as long as it lives. */
export async function replayHistory(
  environment: Environment,
  history: History,
  onFailure: (error: VolumeError) => void,
): Promise<Replayed> {
  const replay = new Replay(environment, onFailure);
  if (history.checkpoint !== null) await replay.restore(history.checkpoint);
  let replayedBytes = 0;
  for await (const tlog of replayedTlogs(environment.store, history)) {
    await replay.tlog(tlog);
    if (tlog.records.length === 1) continue; // the end alone: nothing to replay
    replayedBytes += replayCost(tlog.header, tlog.end, environment.limits);
  }
  return { image: await replay.finish(history.volume), replayedBytes };
}

class Replay {
  readonly #environment: Environment;
  readonly #onFailure: (error: VolumeError) => void;
  #image: VolumeImage | null = null;
  /** The object that the records are filling: the next one's first record seals it. */
  #openObject: number | null = null;

  constructor(environment: Environment, onFailure: (error: VolumeError) => void) {
    this.#environment = environment;
    this.#onFailure = onFailure;
  }

  async restore(checkpoint: CheckpointRecord): Promise<void> {
    const { state } = checkpoint;
    const accounts = await this.#loadAccounts(checkpoint);
    const roots = new Map(checkpoint.snapshotRoots.map(({ number, root }) => [number, root]));
    this.#image = this.#newImage(state, checkpoint.root, accounts, roots);
  }

  async tlog(tlog: ParsedTlog): Promise<void> {
    for (const { record } of tlog.records) {
      if (record.type === 'write') await this.#write(record);
      else if (record.type === 'range') await this.#range(record.cluster, record.count);
      else if (record.type === 'control') await this.#control(record.payload, tlog.header.slot);
    }
    this.#sealOpenObject(); // an object never spans TLogs
  }

  async finish(volume: string): Promise<VolumeImage> {
    const image = this.#existing(volume);
    await image.map.drained();
    return image;
  }

  async #write(record: WriteRecord): Promise<void> {
    const image = this.#existing('');
    await image.map.pressure();
    if (record.objectId !== this.#openObject) {
      this.#sealOpenObject();
      image.accounts.addObject(record.objectId, 'data', image.birth);
      this.#openObject = record.objectId;
    }
    image.applyWrite(record.cluster, record.objectId, record.index, record.checksums);
  }

  async #range(cluster: number, count: number): Promise<void> {
    const image = this.#existing('');
    await image.map.pressure();
    image.applyRange(cluster, count);
  }

  async #control(payload: unknown, slot: number): Promise<void> {
    const control = parseControl(payload);
    if (control.kind === 'checkpoint') return; // the one that counts was restored
    if (control.kind === 'created') {
      if (this.#image !== null) throw new VolumeError('CORRUPT', 'opening a volume: created twice');
      this.#image = this.#newImage(control.state, control.root, new SpaceAccounts(), new Map());
      return;
    }
    const image = this.#existing('');
    if (VolumeImage.needsDrain(control)) await image.map.drained();
    if (control.kind === 'snapshotTaken' || VolumeImage.needsDrain(control)) this.#sealOpenObject();
    image.applyChange(control, slot);
  }

  #sealOpenObject(): void {
    const objectId = this.#openObject;
    this.#openObject = null;
    if (objectId !== null && this.#image?.accounts.objects.has(objectId) === true) {
      this.#image.accounts.sealObject(objectId);
    }
  }

  #existing(volume: string): VolumeImage {
    if (this.#image !== null) return this.#image;
    throw new VolumeError(
      'CORRUPT',
      `opening volume ${volume}: its log does not begin with its creation`,
    );
  }

  async #loadAccounts({ accounts: key, state }: CheckpointRecord): Promise<SpaceAccounts> {
    const snapshots = state.snapshots.map(({ number }) => number);
    const bytes = key === null ? undefined : await this.#environment.store.get(key);
    if (bytes !== undefined) return decodeAccounts(bytes, snapshots);
    // Of a volume that is being purged the accounts go before the slots: it has no object any more.
    if (key === null || isGone(state)) {
      const accounts = new SpaceAccounts();
      accounts.snapshots = snapshots;
      return accounts;
    }
    throw new VolumeError('CORRUPT', `opening a volume: ${key} does not exist`);
  }

  #newImage(
    state: VolumeState,
    root: PersistedRoot | null,
    accounts: SpaceAccounts,
    snapshotRoots: ReadonlyMap<number, PersistedRoot | null>,
  ): VolumeImage {
    const { pool, reader, clock } = this.#environment;
    const onFailure = this.#onFailure;
    return new VolumeImage({
      pool,
      reader,
      clock,
      state,
      root,
      accounts,
      snapshotRoots,
      onFailure,
    });
  }
}
