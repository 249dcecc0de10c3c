/**
 * How requests become log records. Whole clusters are collected during one turn of the event loop and appended together
 * in a microtask: the data with one write into the open SCO, the records with one into the TLog, then the map in the
 * same order, then the replies. Payloads go from the caller's buffer straight to the file: no copy is made.
 * Unaligned edges are read, merged and written as whole clusters under a lock.
 */
import { assert } from '../base/assert.ts';
import { VolumeError } from '../volumes/errors.ts';
import { ClusterLocks } from './cluster-locks.ts';
import { clusterBytes } from './format/constants.ts';
import { writeClustersMax, type LogRecord } from './format/record.ts';
import type { OpenObject } from './log/open-object.ts';
import type { VolumeLog } from './log/volume-log.ts';
import type { VolumeImage } from './volume-image.ts';

/** Zeroes that are stored on request (NBD_CMD_FLAG_NO_HOLE) go out in pieces of this size. */
const zeroes = Buffer.alloc(1024 * 1024);

interface Operation {
  cluster: number;
  /** Whole clusters still to be written; null for a range that becomes zeroes. */
  data: Buffer | null;
  count: number;
  resolve: () => void;
  reject: (error: VolumeError) => void;
}

/** What one append to the log will hold. */
interface Group {
  object: OpenObject | null;
  staged: number;
  buffers: Buffer[];
  records: LogRecord[];
  /** Operations that are complete with this group, in order. */
  finished: Operation[];
}

/**
 * Asked after every wait: a request of a client that has gone is not applied any more, since another may have the
 * volume by now.
 */
export type Alive = () => boolean;

export interface WritePathOptions {
  log: VolumeLog;
  image: VolumeImage;
  /** Reads whole clusters, as they are in the head now. */
  readClusters(cluster: number, count: number): Promise<Buffer>;
}

function assertAlive(alive: Alive): void {
  if (!alive()) throw new VolumeError('SHUTTING_DOWN', 'writing: the client has gone');
}

export class WritePath {
  readonly #options: WritePathOptions;
  readonly #locks = new ClusterLocks();
  #queue: Operation[] = [];

  constructor(options: WritePathOptions) {
    this.#options = options;
  }

  /** Resolves when the write is in the log. OUT_OF_SPACE, HALTED. */
  write(offset: number, data: Buffer, alive: Alive): Promise<void> {
    const first = Math.floor(offset / clusterBytes);
    const end = Math.ceil((offset + data.length) / clusterBytes);
    const aligned = offset % clusterBytes === 0 && data.length % clusterBytes === 0;
    if (aligned && this.#locks.idle) return this.#enqueue(first, data);
    return this.#locks.run(first, end, async () => {
      assertAlive(alive);
      if (aligned) await this.#enqueue(first, data);
      else await this.#writeUnaligned(offset, data, alive);
    });
  }

  /** Makes a range read as zeroes, giving whole clusters back. */
  async clear(offset: number, length: number, alive: Alive): Promise<void> {
    const first = Math.floor(offset / clusterBytes);
    const end = Math.ceil((offset + length) / clusterBytes);
    const innerFirst = Math.ceil(offset / clusterBytes);
    const innerEnd = Math.floor((offset + length) / clusterBytes);
    const aligned = first === innerFirst && end === innerEnd;
    if (aligned && this.#locks.idle) {
      await this.#enqueueRange(first, end - first);
      return;
    }
    await this.#locks.run(first, end, async () => {
      assertAlive(alive);
      if (innerFirst >= innerEnd) {
        await this.#writeUnaligned(offset, Buffer.alloc(length), alive);
        return;
      }
      const head = innerFirst * clusterBytes - offset;
      const tail = offset + length - innerEnd * clusterBytes;
      // The locks stay until the last part is done, whatever happens to the others.
      const parts = await Promise.allSettled([
        head > 0 ? this.#writeUnaligned(offset, Buffer.alloc(head), alive) : undefined,
        this.#enqueueRange(innerFirst, innerEnd - innerFirst),
        tail > 0
          ? this.#writeUnaligned(innerEnd * clusterBytes, Buffer.alloc(tail), alive)
          : undefined,
      ]);
      const failed = parts.find((part) => part.status === 'rejected');
      if (failed !== undefined) throw failed.reason;
    });
  }

  /** Stores zeroes, so that the range is allocated. */
  async writeZeroes(offset: number, length: number, alive: Alive): Promise<void> {
    let at = offset;
    while (at < offset + length) {
      const untilAligned = zeroes.length - (at % clusterBytes);
      const count = Math.min(untilAligned, offset + length - at);
      assertAlive(alive);
      await this.write(at, zeroes.subarray(0, count), alive);
      at += count;
    }
  }

  /** Appends everything that is queued now. */
  commit(): void {
    while (this.#queue.length > 0) {
      const group = this.#nextGroup();
      if (group !== undefined) this.#appendGroup(group);
    }
  }

  #enqueue(cluster: number, data: Buffer): Promise<void> {
    return this.#push({ cluster, data, count: data.length / clusterBytes });
  }

  #enqueueRange(cluster: number, count: number): Promise<void> {
    return this.#push({ cluster, data: null, count });
  }

  #push(operation: Pick<Operation, 'cluster' | 'data' | 'count'>): Promise<void> {
    assert(operation.count > 0, 'an operation covers clusters');
    if (this.#queue.length === 0) {
      queueMicrotask(() => {
        this.commit();
      });
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ ...operation, resolve, reject });
    });
  }

  /** Reads the clusters at the edges, merges, writes. The caller holds the lock on all clusters of the range. */
  async #writeUnaligned(offset: number, data: Buffer, alive: Alive): Promise<void> {
    this.commit(); // what was queued before must be in the map that is read now
    const first = Math.floor(offset / clusterBytes);
    const last = Math.floor((offset + data.length - 1) / clusterBytes);
    const merged = Buffer.allocUnsafe((last - first + 1) * clusterBytes);
    const head = offset - first * clusterBytes;
    const end = head + data.length;
    if (head > 0) (await this.#options.readClusters(first, 1)).copy(merged, 0);
    if (end < merged.length && (last > first || head === 0)) {
      (await this.#options.readClusters(last, 1)).copy(merged, merged.length - clusterBytes);
    }
    data.copy(merged, head);
    assertAlive(alive);
    await this.#enqueue(first, merged);
  }

  /** Takes from the queue what fits into the open object; undefined when that object can't be made. */
  #nextGroup(): Group | undefined {
    const group: Group = { object: null, staged: 0, buffers: [], records: [], finished: [] };
    try {
      for (;;) {
        const operation = this.#queue[0];
        if (operation === undefined) break;
        if (operation.data === null) {
          group.records.push({ type: 'range', cluster: operation.cluster, count: operation.count });
        } else {
          this.#stage(group, operation, operation.data);
          if (operation.count > 0) break; // the object is full: the rest goes into the next one
        }
        this.#queue.shift();
        group.finished.push(operation);
      }
      return group;
    } catch (error) {
      this.#fail(group, error);
      return undefined;
    }
  }

  #stage(group: Group, operation: Operation, data: Buffer): void {
    const object = (group.object ??= this.#options.log.openObject());
    const count = Math.min(operation.count, object.room - group.staged, writeClustersMax);
    if (count === 0) return;
    const bytes = data.subarray(0, count * clusterBytes);
    const index = object.count + group.staged;
    const checksums = object.stage(index, operation.cluster, bytes);
    group.records.push({
      type: 'write',
      cluster: operation.cluster,
      objectId: object.objectId,
      index,
      checksums,
    });
    group.buffers.push(bytes);
    group.staged += count;
    operation.data = data.subarray(bytes.length);
    operation.cluster += count;
    operation.count -= count;
  }

  #appendGroup(group: Group): void {
    const { log, image } = this.#options;
    try {
      if (group.object !== null) {
        log.writeData(group.object, group.buffers, group.staged * clusterBytes);
      }
      log.append(group.records);
      group.object?.commit(group.staged);
      for (const record of group.records) {
        if (record.type === 'write') {
          image.applyWrite(record.cluster, record.objectId, record.index, record.checksums);
        } else if (record.type === 'range') image.applyRange(record.cluster, record.count);
      }
    } catch (error) {
      this.#fail(group, error);
      return;
    }
    for (const operation of group.finished) operation.resolve();
  }

  /** The group is not in the log, or not in the map: its operations fail, with the one that was only partly in it. */
  #fail(group: Group, error: unknown): void {
    if (!(error instanceof VolumeError)) throw error; // our own mistake: the process must not go on
    const next = this.#queue[0];
    const partial =
      next?.data instanceof Buffer && (group.finished.length === 0 || group.staged > 0);
    const failed = partial ? [...group.finished, next] : group.finished;
    if (partial) this.#queue.shift();
    for (const operation of failed) operation.reject(error);
  }
}
