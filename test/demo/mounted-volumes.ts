/** Volumes as a pod sees them: staged and published at folders of the sandbox, grown, and taken away again. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { CsiClient, MountedVolume, Use } from './csi.ts';
import { filesystemMebibytes } from './file-tree.ts';
import type { Narrator } from './narrator.ts';

export class MountedVolumes {
  readonly #folder: string;
  readonly #csi: CsiClient;
  readonly #narrator: Narrator;

  constructor(folder: string, csi: CsiClient, narrator: Narrator) {
    this.#folder = folder;
    this.#csi = csi;
    this.#narrator = narrator;
  }

  /** Does what Kubernetes does when a pod with this volume comes to a node. */
  async mount(id: string, use: Use, name: string): Promise<MountedVolume> {
    const volume = {
      id,
      use,
      stagingPath: join(this.#folder, 'staging', name),
      targetPath: join(this.#folder, 'pods', name),
    };
    mkdirSync(volume.stagingPath, { recursive: true });
    mkdirSync(join(this.#folder, 'pods'), { recursive: true });
    const context = await this.#narrator.work(
      'ControllerPublishVolume',
      () => this.#csi.controllerPublish(id, use),
      () => 'ControllerPublishVolume: this node, and no other, may write',
    );
    await this.#narrator.work(
      'NodeStageVolume',
      () => this.#csi.nodeStage(volume, context),
      () => `NodeStageVolume: a block device with ${use} on it`,
    );
    await this.#narrator.work(
      'NodePublishVolume',
      () => this.#csi.nodePublish(volume, context),
      () => `NodePublishVolume: mounted at ${volume.targetPath}`,
    );
    return volume;
  }

  /** Does what Kubernetes does when the pod is gone. */
  async unmount(volume: MountedVolume): Promise<void> {
    await this.#narrator.work(
      'Unpublishing and unstaging',
      async () => {
        await this.#csi.nodeUnpublish(volume);
        await this.#csi.nodeUnstage(volume);
        await this.#csi.controllerUnpublish(volume.id);
      },
      () => 'Unpublished and unstaged: synced, unmounted, its device gone',
    );
  }

  /** Grows the volume while it is in use, and looks whether its filesystem has become as large. */
  async grow(volume: MountedVolume, sizeBytes: number): Promise<void> {
    const size = await filesystemMebibytes(volume.targetPath);
    await this.#narrator.work(
      'Growing',
      async () => {
        await this.#csi.controllerExpand(volume.id, sizeBytes, volume.use);
        await this.#csi.nodeExpand(volume, sizeBytes);
        return await this.#grownFrom(size, volume);
      },
      (grown) => `${volume.use} has ${grown} MiB instead of ${size} MiB, and stayed mounted`,
      `${volume.use} grown, in use`,
    );
  }

  /** The same where the kernel does not let a mounted ext4 grow: it grows when it is staged. It ends mounted. */
  async growOverRemount(
    volume: MountedVolume,
    name: string,
    sizeBytes: number,
  ): Promise<MountedVolume> {
    const size = await filesystemMebibytes(volume.targetPath);
    await this.unmount(volume);
    await this.#narrator.work(
      'ControllerExpandVolume',
      () => this.#csi.controllerExpand(volume.id, sizeBytes, volume.use),
      () => 'ControllerExpandVolume',
    );
    const again = await this.mount(volume.id, volume.use, name);
    const grown = await this.#grownFrom(size, again);
    this.#narrator.say(`${volume.use} has ${grown} MiB instead of ${size} MiB.`);
    return again;
  }

  async #grownFrom(size: number, { targetPath }: MountedVolume): Promise<number> {
    const grown = await filesystemMebibytes(targetPath);
    if (grown < 1.8 * size) throw new Error(`df shows ${grown} MiB, and ${size} MiB before`);
    return grown;
  }
}
