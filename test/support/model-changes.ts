/**
 * The changes of a model run: volumes and snapshots come, go and roll back. A crash or a fault may catch any of them
 * half-way; whether it happened is found out afterwards, and it is all or nothing.
 */
import { VolumeError } from '../../src/volumes/errors.ts';
import { firstDifference } from './model-content.ts';
import type { SnapshotModel, VolumeModel } from './model-volumes.ts';
import type { ModelWorld } from './model-world.ts';

const mib = 2 ** 20;
const volumesMax = 4;
const snapshotsMax = 5;
const sizes = [mib, 20 * mib, 300 * mib, 1536 * mib];

interface Pending {
  happened: () => Promise<boolean>;
  apply: () => void;
  call: () => Promise<unknown>;
}

export class ModelChanges {
  readonly #world: ModelWorld;
  #pending: Pending | null = null;

  constructor(world: ModelWorld) {
    this.#world = world;
  }

  /** Nothing is left to be found out. */
  begin(): void {
    this.#pending = null;
  }

  /** After a crash: finds out whether the change that was under way happened. */
  async settle(): Promise<void> {
    const pending = this.#pending;
    if (pending !== null && (await this.#world.lives.live(pending.happened()))) pending.apply();
    this.#pending = null;
  }

  /** After a fault that is over: the call is repeated, and must end in the same state. */
  async repeat(): Promise<void> {
    const pending = this.#pending;
    if (pending === null) return;
    try {
      await this.#world.lives.live(pending.call());
    } catch (error) {
      const done = ['VOLUME_NOT_FOUND', 'SNAPSHOT_NOT_FOUND', 'ALREADY_EXISTS'];
      if (!(error instanceof VolumeError) || !done.includes(error.code)) throw error;
    }
    if (!(await this.#world.lives.live(pending.happened()))) {
      throw new Error('a change was repeated after a fault, and did not happen');
    }
    pending.apply();
    this.#pending = null;
  }

  async takeSnapshot(chosen?: VolumeModel): Promise<void> {
    const { model, random, lives } = this.#world;
    const volume = chosen ?? this.#world.pick(model.volumes);
    if (volume === undefined || volume.snapshots.length >= snapshotsMax) return;
    const name = this.#world.newName('s');
    this.#world.note(`snapshot ${volume.name}@${name}`);
    let id = '';
    const timeoutSeconds = random.chance(0.5) ? -1 : 0;
    const claimName = random.chance(0.3);
    const request = { volume: volume.id, name, timeoutSeconds, claimName };
    await this.#change({
      happened: async () => {
        const { items } = await lives.engine.service.listSnapshots({ volume: volume.id }, {});
        id = items.find((snapshot) => snapshot.name === name)?.id ?? '';
        return id !== '';
      },
      apply: () => {
        volume.content.markDurable(volume.content.position);
        model.snapshot(volume, id, name, false);
      },
      call: async () => {
        id = (await lives.engine.service.createSnapshot(request)).id;
      },
    });
  }

  async createVolume(sizeBytes?: number): Promise<void> {
    if (this.#world.model.volumes.length >= volumesMax) return;
    await this.#make(sizeBytes ?? this.#world.pick(sizes) ?? mib, null, null);
  }

  async cloneOf(source: { snapshot: SnapshotModel } | { volume: VolumeModel }): Promise<void> {
    if ('snapshot' in source) await this.#make(source.snapshot.sizeBytes, source.snapshot, null);
    else await this.#make(source.volume.sizeBytes, null, source.volume);
  }

  async clone(): Promise<void> {
    const { model, random } = this.#world;
    if (model.volumes.length >= volumesMax) return;
    const snapshot = this.#world.pick(model.snapshots);
    const volume = this.#world.pick(model.volumes);
    if (snapshot !== undefined && random.chance(0.6)) {
      await this.#make(snapshot.sizeBytes, snapshot, null);
    } else if (volume !== undefined && volume.snapshots.length < snapshotsMax) {
      await this.#make(volume.sizeBytes, null, volume);
    }
  }

  async rollBack(chosen?: SnapshotModel): Promise<void> {
    const { model, lives } = this.#world;
    const existing = model.snapshots.filter(({ volume }) => !volume.removed);
    const snapshot = chosen ?? this.#world.pick(existing);
    if (snapshot === undefined) return;
    const { volume } = snapshot;
    this.#world.note(`roll back ${volume.name} to ${snapshot.name}`);
    await this.#world.release(volume);
    const call = (): Promise<void> =>
      lives.engine.service.rollbackSnapshot({ snapshot: snapshot.id });
    if (model.newerThan(snapshot).some(({ clones }) => clones.size > 0)) {
      await this.#world.refused('HAS_CLONES', call());
      return;
    }
    await this.#change({
      happened: async () => {
        const image = await this.#world.read(await this.#world.device(volume), volume);
        await this.#world.release(volume);
        if (firstDifference(image, snapshot.content) !== undefined) return false;
        // The same content proves nothing while newer snapshots are there.
        const { items } = await lives.engine.service.listSnapshots({ volume: volume.id }, {});
        const newer = model.newerThan(snapshot).filter(({ hidden }) => !hidden);
        return newer.every(({ id }) => items.every((other) => other.id !== id));
      },
      apply: () => {
        model.rollBack(snapshot);
      },
      call,
    });
  }

  async removeSnapshot(chosen?: SnapshotModel): Promise<void> {
    const { model, random, lives } = this.#world;
    const snapshot = chosen ?? this.#world.pick(model.snapshots);
    if (snapshot === undefined) return;
    const mode = random.chance(0.5) && chosen === undefined ? 'strict' : 'deferred';
    this.#world.note(`remove ${snapshot.name} ${mode}`);
    const { id } = snapshot;
    const call = (): Promise<void> => lives.engine.service.removeSnapshot({ snapshot: id }, mode);
    if (mode === 'strict' && snapshot.clones.size > 0) {
      await this.#world.refused('HAS_CLONES', call());
      return;
    }
    await this.#change({
      happened: async () => {
        const { items } = await lives.engine.service.listSnapshots({ snapshot: id }, {});
        return items.length === 0;
      },
      apply: () => {
        model.removeSnapshot(snapshot);
      },
      call,
    });
  }

  async removeVolume(chosen?: VolumeModel): Promise<void> {
    const { model, random, lives } = this.#world;
    const volume = chosen ?? this.#world.pick(model.volumes);
    if (volume === undefined) return;
    const mode = random.chance(0.5) && chosen === undefined ? 'strict' : 'deferred';
    this.#world.note(`remove ${volume.name} ${mode}`);
    await this.#world.release(volume);
    const call = (): Promise<void> => lives.engine.service.removeVolume(volume.id, mode);
    if (mode === 'strict' && !model.isChildless(volume)) {
      await this.#world.refused('HAS_CLONES', call());
      return;
    }
    await this.#change({
      happened: async () => {
        const { items } = await lives.engine.service.listVolumes({});
        return items.every(({ id }) => id !== volume.id);
      },
      apply: () => {
        model.removeVolume(volume);
      },
      call,
    });
  }

  async grow(chosen?: VolumeModel): Promise<void> {
    const { model, random, lives } = this.#world;
    const volume = chosen ?? this.#world.pick(model.volumes);
    if (volume === undefined) return;
    const sizeBytes = volume.sizeBytes + mib * (1 + random.integer(300));
    this.#world.note(`grow ${volume.name} to ${sizeBytes / mib} MiB`);
    await this.#change({
      happened: async () =>
        (await lives.engine.service.getVolume(volume.id)).sizeBytes === sizeBytes,
      apply: () => {
        volume.sizeBytes = sizeBytes;
        volume.content.markDurable(volume.content.position);
      },
      call: () => lives.engine.service.growVolume(volume.id, sizeBytes),
    });
  }

  async #make(
    least: number,
    snapshot: SnapshotModel | null,
    source: VolumeModel | null,
  ): Promise<void> {
    const { model, random, lives } = this.#world;
    const name = this.#world.newName('v');
    const cloned = snapshot !== null || source !== null;
    const sizeBytes = cloned && random.chance(0.2) ? least + 5 * mib : least;
    const flushTo = random.chance(0.2) ? 'backend' : 'local';
    const from = snapshot?.name ?? source?.name ?? 'nothing';
    this.#world.note(`create ${name} of ${sizeBytes / mib} MiB from ${from} to ${flushTo}`);
    let id = '';
    const request = {
      name,
      sizeBytes,
      flushTo,
      ...(snapshot !== null && { source: { kind: 'snapshot', snapshotId: snapshot.id } as const }),
      ...(source !== null && { source: { kind: 'volume', volumeId: source.id } as const }),
    } as const;
    await this.#change({
      happened: async () => {
        const { items } = await lives.engine.service.listVolumes({});
        id = items.find((volume) => volume.name === name)?.id ?? '';
        return id !== '';
      },
      apply: () => {
        source?.content.markDurable(source.content.position);
        const hidden = (): SnapshotModel | null =>
          source === null ? snapshot : model.snapshot(source, `of ${name}`, `of ${name}`, true);
        model.create({ id, name, sizeBytes }, hidden());
      },
      call: async () => {
        id = (await lives.engine.service.createVolume(request)).id;
      },
    });
  }

  /** Carries out a change; now and then a snapshot is read while it is under way. */
  async #change(pending: Pending): Promise<void> {
    this.#pending = pending;
    const { model, random, lives } = this.#world;
    const read = random.chance(0.2) ? this.#world.pick(model.snapshots) : undefined;
    const reading = read === undefined ? undefined : this.#readAlongside(read);
    reading?.catch(() => undefined);
    await lives.live(pending.call());
    await reading;
    pending.apply();
    this.#pending = null;
  }

  /** Its readers are dropped when the snapshot goes; what they read before is right. */
  async #readAlongside(snapshot: SnapshotModel): Promise<void> {
    try {
      await this.#world.verifySnapshot(snapshot);
    } catch (error) {
      if (!(error instanceof VolumeError) || error.code !== 'SNAPSHOT_NOT_FOUND') throw error;
    }
  }
}
