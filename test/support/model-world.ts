/** What the parts of a model run share: the engine's lives, the model, the randomness, and what was read and compared. */
import type { BlockDevice } from '../../src/volumes/block-device.ts';
import { VolumeError, type ErrorCode } from '../../src/volumes/errors.ts';
import { firstDifference, type Content } from './model-content.ts';
import type { Lives, Loss } from './model-lives.ts';
import type { SnapshotModel, VolumeModel, VolumesModel } from './model-volumes.ts';
import type { SeededRandom } from './seeded-random.ts';

const clusterBytes = 4096;

export class ModelWorld {
  readonly random: SeededRandom;
  readonly lives: Lives;
  readonly model: VolumesModel;
  readonly steps: string[] = [];
  readonly #devices = new Map<VolumeModel, BlockDevice>();
  #names = 0;

  constructor(random: SeededRandom, lives: Lives, model: VolumesModel) {
    this.random = random;
    this.lives = lives;
    this.model = model;
  }

  note(step: string): void {
    this.steps.push(step);
  }

  newName(letter: string): string {
    return `${letter}${this.#names++}`;
  }

  pick<Item>(items: readonly Item[]): Item | undefined {
    return items[this.random.integer(items.length)];
  }

  /** An open export of the volume's head. */
  async device(volume: VolumeModel): Promise<BlockDevice> {
    const open = this.#devices.get(volume);
    if (open?.revoked.aborted === false) return open;
    const device = await this.lives.live(this.lives.engine.openDevice(ulidOf(volume)));
    this.#devices.set(volume, device);
    // It has halted, which may have cost what no flush covered.
    if (open !== undefined) await this.verifyVolume(volume, 'power', true);
    return device;
  }

  async release(volume: VolumeModel): Promise<void> {
    await this.#devices.get(volume)?.close();
    this.#devices.delete(volume);
  }

  /** The process that had them is gone. */
  forgetDevices(): void {
    this.#devices.clear();
  }

  async refused(code: ErrorCode, call: Promise<unknown>): Promise<void> {
    try {
      await this.lives.live(call);
    } catch (error) {
      if (error instanceof VolumeError && error.code === code) return;
      throw error;
    }
    throw new Error(`not refused with ${code}`);
  }

  /** Compares everything with the model; with `fresh`, what a crash has left becomes what the model expects. */
  async verifyAll(loss: Loss, fresh: boolean): Promise<void> {
    const { service } = this.lives.engine;
    const volumes = await this.lives.live(service.listVolumes({}));
    const snapshots = await this.lives.live(service.listSnapshots({}, {}));
    expectSame('volumes', volumes.items, this.model.volumes);
    expectSame('snapshots', snapshots.items, this.model.snapshots);
    for (const volume of this.model.volumes) await this.verifyVolume(volume, loss, fresh);
    for (const snapshot of this.model.snapshots) await this.verifySnapshot(snapshot);
  }

  async verifySnapshot(snapshot: SnapshotModel): Promise<void> {
    const name = `${ulidOf(snapshot.volume)}@${ulidOf(snapshot)}`;
    const device = await this.lives.live(this.lives.engine.openDevice(name));
    const image = await this.read(device, snapshot);
    const wrong = firstDifference(image, snapshot.content);
    if (wrong !== undefined) throw new Error(`cluster ${wrong} of ${snapshot.name} is wrong`);
    await device.close();
  }

  async verifyVolume(volume: VolumeModel, loss: Loss, fresh: boolean): Promise<void> {
    const device = await this.device(volume);
    if (device.sizeBytes !== volume.sizeBytes) {
      throw new Error(`${volume.name} has ${device.sizeBytes} bytes, not ${volume.sizeBytes}`);
    }
    const image = await this.read(device, volume);
    const problem = volume.content.problemAfter(loss, image);
    if (problem !== undefined) throw new Error(`${volume.name}: ${problem}`);
    if (fresh) volume.content.settle(image);
  }

  /** Everything mapped, found by its extents. */
  async read(device: BlockDevice, { sizeBytes }: { sizeBytes: number }): Promise<Content> {
    const image: Content = new Map();
    const { lives } = this;
    for (let at = 0; at < sizeBytes;) {
      const extents = await lives.live(device.extents(at, sizeBytes - at, 1000));
      for (const { lengthBytes, hole } of extents) {
        if (!hole) {
          const bytes = Buffer.concat(await lives.live(device.read(at, lengthBytes)));
          for (let from = 0; from < lengthBytes; from += clusterBytes) {
            image.set((at + from) / clusterBytes, bytes.subarray(from, from + clusterBytes));
          }
        }
        at += lengthBytes;
      }
    }
    return image;
  }
}

export function ulidOf({ id }: { id: string }): string {
  return id.slice(id.indexOf('.') + 1);
}

function expectSame(
  what: string,
  actual: readonly { id: string }[],
  expected: readonly { id: string }[],
): void {
  const left = actual.map(({ id }) => id).sort();
  const right = expected.map(({ id }) => id).sort();
  if (left.join() !== right.join()) {
    throw new Error(`${what}: there are [${left.join()}], but expected [${right.join()}]`);
  }
}
