/** The requests of a model run: writes, discards and zeroes, several at once, unaligned as often as not, and flushes. */
import type { BlockDevice } from '../../src/volumes/block-device.ts';
import type { Content, Edit } from './model-content.ts';
import type { VolumeModel } from './model-volumes.ts';
import { ulidOf, type ModelWorld } from './model-world.ts';

const clusterBytes = 4096;
const mib = 2 ** 20;

interface Region {
  readonly first: number;
  readonly count: number;
}

export class ModelWrites {
  readonly #world: ModelWorld;
  /** Few places, so that they are written again and again. */
  readonly #regions: Region[];
  /** Some runs write more than an object holds at a time. */
  readonly #large: boolean;

  constructor(world: ModelWorld) {
    const { random } = world;
    this.#world = world;
    const spread = random.chance(0.5) ? 20 : 1500;
    this.#regions = Array.from({ length: random.chance(0.3) ? 100 : 20 }, (_, i) => {
      const megabyte = i < 3 ? 0 : random.integer(spread);
      return { first: megabyte * 256 + random.integer(256), count: 1 + random.integer(12) };
    });
    this.#large = random.chance(0.02);
  }

  async write(): Promise<void> {
    const { random } = this.#world;
    const volume = this.#world.pick(this.#world.model.volumes);
    if (volume === undefined) return;
    const edits = Array.from({ length: 1 + random.integer(4) }, () => this.#edit(volume));
    const fua = edits.length === 1 && random.chance(0.2);
    await this.writeTo(volume, edits, { fua, alongside: random.chance(0.15) });
  }

  /** Requests that are under way at the same time; with `alongside`, a checkpoint too. */
  async writeTo(
    volume: VolumeModel,
    edits: Edit[],
    { fua = false, alongside = false }: { fua?: boolean; alongside?: boolean } = {},
  ): Promise<void> {
    const { lives } = this.#world;
    const device = await this.#world.device(volume);
    const details = `${fua ? ' fua' : ''}${alongside ? ' while checkpointing' : ''}`;
    this.#world.note(`write ${volume.name} ${edits.map(describeEdit).join(', ')}${details}`);
    volume.content.begin(edits);
    const calls = edits.map(async (edit) => {
      await this.#send(device, edit, fua);
      edit.acknowledged = true;
    });
    if (alongside) calls.push(this.checkpointOf(volume));
    for (const call of calls) call.catch(() => undefined);
    await lives.live(Promise.all(calls));
    volume.content.end(await this.#contested(volume, device));
    if (fua) volume.content.markDurable(volume.content.position);
  }

  /** What the clusters hold that more than one request of the batch wrote. */
  async #contested(volume: VolumeModel, device: BlockDevice): Promise<Content> {
    const content: Content = new Map();
    for (const cluster of volume.content.contested()) {
      const offset = cluster * clusterBytes;
      const bytes = await this.#world.lives.live(device.read(offset, clusterBytes));
      content.set(cluster, Buffer.concat(bytes));
    }
    return content;
  }

  async flush(chosen?: VolumeModel): Promise<void> {
    const volume = chosen ?? this.#world.pick(this.#world.model.volumes);
    if (volume === undefined) return;
    this.#world.note(`flush ${volume.name}`);
    const device = await this.#world.device(volume);
    const { position } = volume.content;
    await this.#world.lives.live(device.flush());
    volume.content.markDurable(position);
  }

  async checkpointOf(volume: VolumeModel): Promise<void> {
    const { catalog } = this.#world.lives.engine.service;
    const entry = catalog.byId(ulidOf(volume));
    if (entry !== undefined) await (await catalog.open(entry)).checkpoint();
  }

  #edit(volume: VolumeModel): Edit {
    const { random } = this.#world;
    const region = this.#region(volume);
    let offset = region.first * clusterBytes;
    let length = region.count * clusterBytes;
    if (this.#large && random.chance(0.1)) length = (4000 + random.integer(300)) * clusterBytes;
    length = Math.min(length, volume.sizeBytes - offset);
    if (random.chance(0.5)) {
      const skip = random.integer(length);
      offset += skip;
      length = 1 + random.integer(length - skip);
    }
    const kind = random.integer(10);
    if (kind === 0) {
      // A range that may cover much of the volume.
      const other = this.#region(volume);
      const end = Math.min(volume.sizeBytes, (other.first + other.count) * clusterBytes);
      if (end > offset) length = end - offset;
    }
    const data = kind < 2 ? null : Buffer.alloc(length, random.bytes(1 + random.integer(16)));
    return { offset, length, data, acknowledged: false };
  }

  #region(volume: VolumeModel): Region {
    const inside = this.#regions.filter(
      ({ first }) => (first + 1) * clusterBytes <= volume.sizeBytes,
    );
    return this.#world.pick(inside) ?? { first: 0, count: 1 };
  }

  async #send(device: BlockDevice, edit: Edit, fua: boolean): Promise<void> {
    const { random } = this.#world;
    const { offset, length, data } = edit;
    if (data !== null) await device.write(offset, data, { fua });
    else if (random.chance(0.5)) await device.discard(offset, length, { fua });
    else {
      const allocate = length < mib && random.chance(0.3);
      await device.writeZeroes(offset, length, { fua, allocate });
    }
  }
}

function describeEdit({ offset, length, data }: Edit): string {
  return `${data === null ? '-' : '+'}${place(offset)}+${place(length)}`;
}

/** In clusters, with the odd bytes behind a dot. */
function place(bytes: number): string {
  const odd = bytes % clusterBytes;
  return `${Math.floor(bytes / clusterBytes)}${odd === 0 ? '' : `.${odd}`}`;
}
