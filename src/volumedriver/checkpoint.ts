/**
 * A checkpoint: map pages, space accounts and state are put into the backend, so that opening the volume replays only
 * what is newer, and objects that nothing uses any more can be deleted. Its commit is a slot that starts with a
 * checkpoint record; before that slot is in the backend nothing is deleted, so that every way back stays open.
 */
import type { Environment } from './environment.ts';
import { encodeAccounts } from './format/accounts-blob.ts';
import { clusterChecksum } from './format/checksum.ts';
import type { CheckpointRecord } from './format/control.ts';
import { makeObjectId } from './format/location.ts';
import { encodeObjectTail } from './format/object-footer.ts';
import { keys, numberOfKey } from './keys.ts';
import type { VolumeLog } from './log/volume-log.ts';
import type { PersistedRoot } from './map/page.ts';
import type { FrozenMap, MapObjectWriter } from './map/volume-map.ts';
import type { SpaceAccounts } from './space-accounts.ts';
import type { Uploader } from './uploader.ts';
import type { VolumeImage } from './volume-image.ts';

export interface CheckpointParts {
  environment: Environment;
  image: VolumeImage;
  log: VolumeLog;
  uploader: Uploader;
  /** Holds back new writes until it is called again with false. */
  holdWrites(hold: boolean): void;
  /** Appends what is queued for the log. */
  commitQueued(): void;
  /** What is logged from now on is not in this checkpoint. */
  onCut(): void;
}

/** Where an earlier session may have left objects that nothing refers to. */
export interface Leftovers {
  /** Taken out by the last checkpoint, which may not have got round to deleting them. */
  doomed: readonly number[];
  boundary: number;
  /** Writers whose session did not end cleanly: objects of theirs may never have got into the log. */
  writers: readonly number[];
  /** Empty local directories that stand for those writers until their objects are swept. */
  directories: readonly string[];
}

export class Checkpointer {
  readonly #parts: CheckpointParts;
  /** Objects that a checkpoint took out of the accounts and that were not deleted since: the next one names them again. */
  readonly #doomed: number[];
  #accountsKey: string | null;

  /** `doomed` are those of the last checkpoint. */
  constructor(parts: CheckpointParts, accountsKey: string | null, doomed: readonly number[]) {
    this.#parts = parts;
    this.#accountsKey = accountsKey;
    this.#doomed = [...doomed];
  }

  /** Resolves when the checkpoint is in the backend and what it made superfluous is deleted. Never run two at once. */
  async run(): Promise<void> {
    const { image, log, uploader } = this.#parts;
    const cut = await this.#cut();
    const targets = [cut.head, ...cut.frozen.map(([, map]) => map)];
    const written: number[] = [];
    let roots: (PersistedRoot | null)[];
    try {
      roots = await image.map.persist(targets, this.#writer(written));
    } catch (error) {
      for (const objectId of written) image.accounts.abandonObject(objectId);
      throw error;
    } finally {
      image.endCut();
      cut.head.release();
    }
    cut.frozen.forEach(([number], i) => {
      image.snapshotMaps.get(number)?.stored(roots[i + 1] ?? null);
    });
    const accountsKey = await this.#storeAccounts(cut.accounts);
    const record: CheckpointRecord = {
      kind: 'checkpoint',
      replayFrom: cut.replayFrom,
      state: cut.state,
      root: roots[0] ?? null,
      snapshotRoots: cut.snapshots.map((number) => ({ number, root: this.#rootOf(number) })),
      accounts: accountsKey,
      doomed: cut.doomed,
    };
    this.#parts.commitQueued();
    const slot = log.roll({ checkpoint: record }) + 1;
    log.roll();
    await uploader.committed(slot);
    await this.#cleanUp(cut.doomed, cut.replayFrom, accountsKey);
  }

  async sweep(leftovers: Leftovers): Promise<void> {
    const { environment, image } = this.#parts;
    const { store } = environment;
    for (const objectId of leftovers.doomed) await deleteObject(environment, objectId);
    const deleted = new Set(leftovers.doomed);
    const left = this.#doomed.filter((objectId) => !deleted.has(objectId));
    this.#doomed.splice(0, this.#doomed.length, ...left);
    await deleteSlotsBelow(environment, image.state.id, leftovers.boundary);
    for (const { key } of await store.list(keys.accountsPrefix(image.state.id))) {
      if (key !== this.#accountsKey) await store.delete(key);
    }
    for (const writer of leftovers.writers) await this.#sweepWriter(writer);
    for (const directory of leftovers.directories) environment.disk.remove(directory);
  }

  async #sweepWriter(writer: number): Promise<void> {
    const { environment, image } = this.#parts;
    const prefix = keys.objectsOfWriter(writer);
    let startAfter = prefix;
    for (;;) {
      const objects = await environment.store.list(prefix, { startAfter, limit: 1000 });
      for (const { key } of objects) {
        const objectId = makeObjectId(writer, numberOfKey(key));
        const needed = image.accounts.objects.has(objectId) || this.#doomed.includes(objectId);
        if (!needed) await deleteObject(environment, objectId);
      }
      startAfter = objects.at(-1)?.key ?? startAfter;
      if (objects.length < 1000) return;
    }
  }

  async #cut(): Promise<{
    head: FrozenMap;
    frozen: [number, FrozenMap][];
    snapshots: number[];
    accounts: SpaceAccounts;
    state: VolumeImage['state'];
    doomed: number[];
    replayFrom: number;
  }> {
    const { image, log } = this.#parts;
    await image.map.drained(); // most of the wait, with writers still going on
    this.#parts.holdWrites(true);
    try {
      this.#parts.commitQueued();
      await image.map.drained();
      const replayFrom = log.roll() + 1;
      this.#parts.onCut();
      this.#doomed.push(...image.accounts.takeDoomed());
      const head = image.map.freeze();
      const frozen: [number, FrozenMap][] = [];
      for (const [number, map] of image.snapshotMaps) {
        if (map.frozen !== null) frozen.push([number, map.frozen]);
      }
      const snapshots = [...image.snapshotMaps.keys()];
      const { state } = image;
      const accounts = image.beginCut();
      return { head, frozen, snapshots, accounts, state, doomed: [...this.#doomed], replayFrom };
    } finally {
      this.#parts.holdWrites(false);
    }
  }

  #rootOf(number: number): PersistedRoot | null {
    return this.#parts.image.snapshotMaps.get(number)?.root ?? null;
  }

  /** Notes the objects that it stored in `written`. */
  #writer(written: number[]): MapObjectWriter {
    const { environment, image, log } = this.#parts;
    const doomed = this.#doomed;
    return {
      allocateObject: () => log.takeObjectId(),
      async writeObject(objectId, birth, pages) {
        const checksums = Uint32Array.from(pages, (page, i) => clusterChecksum(page, objectId, i));
        const clusters = new Float64Array(pages.length);
        const tail = encodeObjectTail(objectId, { kind: 'map', checksums, clusters });
        try {
          await environment.store.put(keys.object(objectId), [...pages, tail]);
        } catch (error) {
          doomed.push(objectId); // it may be there all the same
          throw error;
        }
        image.addMapObject(objectId, birth, pages.length);
        written.push(objectId);
      },
    };
  }

  async #storeAccounts(accounts: SpaceAccounts): Promise<string> {
    const { environment, image, log } = this.#parts;
    const key = keys.accounts(image.state.id, log.takeObjectId());
    await environment.store.put(key, [encodeAccounts(accounts)]);
    return key;
  }

  /** The checkpoint is committed: what only earlier ones needed can go. */
  async #cleanUp(doomed: number[], boundary: number, accountsKey: string): Promise<void> {
    const { environment, image } = this.#parts;
    const { store } = environment;
    for (const objectId of doomed) await deleteObject(environment, objectId);
    this.#doomed.splice(0, doomed.length);
    if (this.#accountsKey !== null && this.#accountsKey !== accountsKey) {
      await store.delete(this.#accountsKey);
    }
    this.#accountsKey = accountsKey;
    await deleteSlotsBelow(environment, image.state.id, boundary);
  }
}

export async function deleteObject(environment: Environment, objectId: number): Promise<void> {
  await environment.store.delete(keys.object(objectId));
  environment.reader.forget(objectId);
}

export async function deleteSlotsBelow(
  environment: Environment,
  volume: string,
  boundary: number,
): Promise<void> {
  for (;;) {
    const slots = await environment.store.list(keys.slotPrefix(volume), { limit: 1000 });
    const old = slots.filter(({ key }) => numberOfKey(key) < boundary);
    for (const { key } of old) await environment.store.delete(key);
    if (old.length === 0 || old.length < slots.length) return;
  }
}
