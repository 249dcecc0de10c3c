/** BlockDevices over a volume's head and over its snapshots: bounds, read-only and revocation, nothing else. */
import { VolumeError } from '../volumes/errors.ts';
import type { BlockDevice, Extent } from '../volumes/block-device.ts';
import { clusterBytes } from './format/constants.ts';
import type { SnapshotState } from './format/control.ts';
import type { ObjectReader } from './object-reader.ts';
import { readBytes } from './read-path.ts';
import type { MapView } from './volume-image.ts';
import type { Volume, VolumeClient } from './volume.ts';

/** How far one look-up of extents goes: 1 GiB, so that an answer never holds a whole large map. */
const extentClusters = 2 ** 18;

abstract class ViewDevice implements BlockDevice, VolumeClient {
  readonly generation: number | null;
  abstract readonly snapshot: string | null;
  abstract readonly readOnly: boolean;
  abstract get sizeBytes(): number;
  protected readonly volume: Volume;
  protected closed = false;
  readonly #reader: ObjectReader;
  readonly #revoked = new AbortController();

  constructor(volume: Volume, reader: ObjectReader, generation: number | null) {
    this.volume = volume;
    this.#reader = reader;
    this.generation = generation;
    volume.clients.add(this);
  }

  get revoked(): AbortSignal {
    return this.#revoked.signal;
  }

  revoke(reason: VolumeError): void {
    this.closed = true;
    this.#revoked.abort(reason);
  }

  protected abstract get view(): MapView;
  abstract write(offset: number, data: Buffer, options: { fua: boolean }): Promise<void>;
  abstract discard(offset: number, length: number, options: { fua: boolean }): Promise<void>;
  abstract writeZeroes(
    offset: number,
    length: number,
    options: { fua: boolean; allocate: boolean },
  ): Promise<void>;
  abstract flush(): Promise<void>;

  async read(offset: number, length: number): Promise<Buffer[]> {
    this.checkRange('reading', offset, length);
    return await readBytes(this.view, this.#reader, offset, length);
  }

  giveBack(buffer: Buffer): void {
    this.#reader.memory.giveBack(buffer);
  }

  async cache(offset: number, length: number): Promise<void> {
    this.checkRange('caching', offset, length);
    if (length === 0) return;
    const first = Math.floor(offset / clusterBytes);
    const count = Math.floor((offset + length - 1) / clusterBytes) - first + 1;
    for (let done = 0; done < count; done += extentClusters) {
      const runs = await this.view.lookup(first + done, Math.min(extentClusters, count - done));
      for (const run of runs) {
        if (run.objectId === 0) continue;
        await this.#reader.prefetch(run.objectId, run.index, run.clusterCount);
      }
    }
  }

  async extents(offset: number, length: number, maxExtents: number): Promise<Extent[]> {
    this.checkRange('asking for extents', offset, length);
    const first = Math.floor(offset / clusterBytes);
    const wanted = Math.floor((offset + length - 1) / clusterBytes) - first + 1;
    const count = Math.min(wanted, extentClusters);
    const extents: Extent[] = [];
    let skip = offset - first * clusterBytes;
    let left = Math.min(length, count * clusterBytes - skip);
    for (const run of await this.view.lookup(first, count)) {
      const lengthBytes = Math.min(left, run.clusterCount * clusterBytes - skip);
      const hole = run.objectId === 0;
      skip = 0;
      left -= lengthBytes;
      const last = extents.at(-1);
      if (last?.hole === hole) last.lengthBytes += lengthBytes;
      else if (extents.length >= maxExtents) break;
      else extents.push({ lengthBytes, hole });
      if (left === 0) break;
    }
    return extents;
  }

  close(): Promise<void> {
    this.closed = true;
    this.volume.clients.delete(this);
    return Promise.resolve();
  }

  protected checkRange(what: string, offset: number, length: number): void {
    if (this.closed) throw this.#goneReason();
    if (offset >= 0 && length >= 0 && offset + length <= this.sizeBytes) return;
    throw new VolumeError(
      'BEYOND_END',
      `${what}: ${length} bytes at ${offset} pass the end of the device at ${this.sizeBytes}`,
    );
  }

  #goneReason(): VolumeError {
    const reason: unknown = this.#revoked.signal.reason;
    if (reason instanceof VolumeError) return reason;
    return new VolumeError('SHUTTING_DOWN', 'using a device: it was closed');
  }
}

/** The head of a volume: what is read and written under a grant, or while there is none. */
export class VolumeDevice extends ViewDevice {
  readonly snapshot = null;
  readonly readOnly: boolean;

  constructor(
    volume: Volume,
    reader: ObjectReader,
    access: { generation: number | null; readOnly: boolean },
  ) {
    super(volume, reader, access.generation);
    this.readOnly = access.readOnly;
  }

  get sizeBytes(): number {
    return this.volume.sizeBytes;
  }

  protected get view(): MapView {
    return this.volume.head;
  }

  async write(offset: number, data: Buffer, options: { fua: boolean }): Promise<void> {
    this.#checkWritable('writing', offset, data.length);
    if (data.length > 0) await this.volume.write(offset, data, this.#alive);
    if (options.fua) await this.volume.flush();
  }

  async discard(offset: number, length: number, options: { fua: boolean }): Promise<void> {
    this.#checkWritable('discarding', offset, length);
    if (length > 0) await this.volume.clear(offset, length, this.#alive);
    if (options.fua) await this.volume.flush();
  }

  async writeZeroes(
    offset: number,
    length: number,
    options: { fua: boolean; allocate: boolean },
  ): Promise<void> {
    this.#checkWritable('writing zeroes', offset, length);
    if (length > 0) {
      if (options.allocate) await this.volume.writeZeroes(offset, length, this.#alive);
      else await this.volume.clear(offset, length, this.#alive);
    }
    if (options.fua) await this.volume.flush();
  }

  async flush(): Promise<void> {
    this.checkRange('flushing', 0, 0);
    if (!this.readOnly) await this.volume.flush();
  }

  readonly #alive = (): boolean => !this.closed;

  #checkWritable(what: string, offset: number, length: number): void {
    if (this.readOnly) throw new VolumeError('READ_ONLY', `${what}: the export is read-only`);
    this.checkRange(what, offset, length);
  }
}

export class SnapshotDevice extends ViewDevice {
  readonly snapshot: string;
  readonly readOnly = true;
  readonly sizeBytes: number;
  protected readonly view: MapView;

  constructor(volume: Volume, reader: ObjectReader, snapshot: SnapshotState) {
    super(volume, reader, null);
    this.snapshot = snapshot.id;
    this.sizeBytes = snapshot.sizeBytes;
    this.view = volume.snapshotView(snapshot);
  }

  write(): Promise<void> {
    return refuse('writing');
  }

  discard(): Promise<void> {
    return refuse('discarding');
  }

  writeZeroes(): Promise<void> {
    return refuse('writing zeroes');
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }
}

function refuse(what: string): Promise<never> {
  return Promise.reject(new VolumeError('READ_ONLY', `${what}: a snapshot is read-only`));
}
