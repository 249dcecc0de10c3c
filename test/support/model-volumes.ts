/** The rules about volumes, snapshots and clones, as a model: who exists, who keeps whom, what each holds. */
import { ContentModel, type Content } from './model-content.ts';

export interface SnapshotModel {
  readonly id: string;
  readonly name: string;
  readonly volume: VolumeModel;
  readonly content: Content;
  readonly sizeBytes: number;
  /** Volumes made from it whose data has not been let go of. */
  readonly clones: Set<VolumeModel>;
  /** Removed, or never shown, but kept for its clones. */
  hidden: boolean;
}

export interface VolumeModel {
  readonly id: string;
  readonly name: string;
  sizeBytes: number;
  readonly content: ContentModel;
  /** Oldest first. */
  snapshots: SnapshotModel[];
  readonly parent: SnapshotModel | null;
  removed: boolean;
}

export class VolumesModel {
  /** All that have data, removed ones too. */
  readonly all = new Set<VolumeModel>();

  get volumes(): VolumeModel[] {
    return [...this.all].filter(({ removed }) => !removed);
  }

  get snapshots(): SnapshotModel[] {
    return [...this.all].flatMap(({ snapshots }) => snapshots).filter(({ hidden }) => !hidden);
  }

  create(
    fields: Pick<VolumeModel, 'id' | 'name' | 'sizeBytes'>,
    parent: SnapshotModel | null,
  ): VolumeModel {
    const content = new ContentModel(parent?.content ?? new Map<number, Buffer>());
    const volume = { ...fields, content, snapshots: [], parent, removed: false };
    this.all.add(volume);
    parent?.clones.add(volume);
    return volume;
  }

  snapshot(volume: VolumeModel, id: string, name: string, hidden: boolean): SnapshotModel {
    const content = new Map(volume.content.current);
    const { sizeBytes } = volume;
    const snapshot = {
      id,
      name,
      volume,
      content,
      sizeBytes,
      clones: new Set<VolumeModel>(),
      hidden,
    };
    volume.snapshots.push(snapshot);
    return snapshot;
  }

  removeSnapshot(snapshot: SnapshotModel): void {
    if (snapshot.clones.size > 0) snapshot.hidden = true;
    else this.#drop(snapshot);
  }

  removeVolume(volume: VolumeModel): void {
    volume.removed = true;
    this.#purgeIfGone(volume);
  }

  isChildless(volume: VolumeModel): boolean {
    return volume.snapshots.every(({ hidden, clones }) => hidden && clones.size === 0);
  }

  newerThan(snapshot: SnapshotModel): SnapshotModel[] {
    const { snapshots } = snapshot.volume;
    return snapshots.slice(snapshots.indexOf(snapshot) + 1);
  }

  rollBack(snapshot: SnapshotModel): void {
    const { volume } = snapshot;
    volume.snapshots = volume.snapshots.slice(0, volume.snapshots.indexOf(snapshot) + 1);
    volume.content.settle(snapshot.content);
  }

  #drop(snapshot: SnapshotModel): void {
    const { volume } = snapshot;
    volume.snapshots = volume.snapshots.filter((other) => other !== snapshot);
    this.#purgeIfGone(volume);
  }

  /** A volume that nothing needs lets go of its source. */
  #purgeIfGone(volume: VolumeModel): void {
    if (!volume.removed || volume.snapshots.length > 0) return;
    this.all.delete(volume);
    const { parent } = volume;
    if (parent === null) return;
    parent.clones.delete(volume);
    if (parent.hidden && parent.clones.size === 0) this.#drop(parent);
  }
}
