/**
 * The log that one open volume writes: clusters go into the open SCO, records into the open TLog, in one order. Nothing
 * here waits for the device but sync(). Invariants:
 * - a record is appended only after the data it names was written, so that a crash of the process loses no
 *   acknowledged write;
 * - a sealed TLog refers only to sealed objects;
 * - after a failed sync, or a failed write for any reason but lack of space, the log is halted for good: what the kernel
 *   kept of the unsynced bytes is unknown, and only recovery may judge it.
 */
import { assert } from '../../base/assert.ts';
import type { Random } from '../../base/random.ts';
import { VolumeError, hasCode, toVolumeError } from '../../volumes/errors.ts';
import type { Disk, DiskFile } from '../disk/disk.ts';
import { objectCounterMax } from '../format/constants.ts';
import type { CheckpointRecord } from '../format/control.ts';
import { formatObjectId, makeObjectId } from '../format/location.ts';
import type { LogRecord } from '../format/record.ts';
import { linkOf, noNonce, type TlogHeader } from '../format/tlog-header.ts';
import type { ObjectReader } from '../object-reader.ts';
import { GroupSync } from '../disk/group-sync.ts';
import { OpenObject } from './open-object.ts';
import { OpenTlog } from './open-tlog.ts';

export interface SealedObject {
  objectId: number;
  file: DiskFile;
}

export interface SealedTlog {
  header: TlogHeader;
  file: DiskFile;
  sizeBytes: number;
}

/** How the next TLog differs from the one before it. */
export interface NextTlog {
  /** It starts with this record, which later headers point to. */
  checkpoint?: CheckpointRecord;
  /** Begin it although the open one has no records. */
  evenEmpty?: boolean;
}

export interface VolumeLogOptions {
  disk: Disk;
  random: Random;
  reader: ObjectReader;
  /** The volume's local directory; it exists. */
  directory: string;
  volume: string;
  writer: number;
  epoch: number;
  /** The number of the first TLog that this log makes. */
  slot: number;
  checkpointSlot: number;
  boundary: number;
  /** Nonce of the slot before the first TLog; zeroes when there is none. */
  previousNonce: string;
  /** Nonce of the local TLog that the first one replaces; zeroes unless recovery carries one over. */
  replaces: string;
  events: VolumeLogEvents;
}

export interface VolumeLogEvents {
  objectOpened(objectId: number): void;
  objectSealed(object: SealedObject): void;
  tlogSealed(tlog: SealedTlog): void;
  halted(error: VolumeError): void;
}

export const localNames = {
  object: (objectId: number): string => `${formatObjectId(objectId)}.sco`,
  tlog: (slot: number): string => `${slot.toString(16).padStart(14, '0')}.tlog`,
} as const;

export class VolumeLog {
  readonly #options: VolumeLogOptions;
  readonly #group = new GroupSync(() => this.#syncNow());
  #tlog: OpenTlog;
  #object: OpenObject | null = null;
  #nextCounter = 0;
  /** Files with bytes that no completed sync covers. */
  #unsynced = new Set<DiskFile>();
  #namesUnsynced = true;
  #unsyncedBytes = 0;
  #halted: VolumeError | null = null;

  constructor(options: VolumeLogOptions) {
    this.#options = options;
    const { slot, checkpointSlot, boundary, previousNonce, replaces } = options;
    const previous = linkOf(previousNonce);
    this.#tlog = this.#openTlog({ slot, checkpointSlot, boundary, previous, replaces });
  }

  get halted(): VolumeError | null {
    return this.#halted;
  }

  get directory(): string {
    return this.#options.directory;
  }

  /** Bytes written since the last sync began: what a power cut could take. */
  get unsyncedBytes(): number {
    return this.#unsyncedBytes;
  }

  /** The number that the open TLog will be committed as. */
  get slot(): number {
    return this.#tlog.header.slot;
  }

  /** Something was logged since the last roll. */
  get hasRecords(): boolean {
    return this.#tlog.records > 0;
  }

  /** Bytes of records in the open TLog. */
  get tlogBytes(): number {
    return this.#tlog.sizeBytes;
  }

  /** The object with room for at least one more cluster. Throws OUT_OF_SPACE when no file can be made. */
  openObject(): OpenObject {
    this.#assertRunning();
    if (this.#object !== null && this.#object.room > 0) return this.#object;
    this.sealObject();
    const objectId = this.takeObjectId();
    const path = `${this.#options.directory}/${localNames.object(objectId)}`;
    const file = this.#halting(() => this.#options.disk.create(path));
    this.#namesUnsynced = true;
    this.#object = new OpenObject(objectId, 'data', file);
    this.#options.reader.addLocal(objectId, file);
    this.#options.events.objectOpened(objectId);
    return this.#object;
  }

  /** A fresh object id of this log's writer. */
  takeObjectId(): number {
    if (this.#nextCounter > objectCounterMax) {
      const error = new VolumeError(
        'HALTED',
        `writing volume ${this.#options.volume}: writer ${this.#options.writer} has used all its objects; the next ` +
          'open takes a new writer',
      );
      throw this.#halt(error);
    }
    return makeObjectId(this.#options.writer, this.#nextCounter++);
  }

  /** Writes clusters that were staged in the open object. OUT_OF_SPACE leaves it as it was. */
  writeData(object: OpenObject, buffers: readonly Buffer[], bytes: number): void {
    this.#assertRunning();
    this.#halting(() => {
      object.writeStaged(buffers);
    });
    this.#unsynced.add(object.file);
    this.#unsyncedBytes += bytes;
  }

  /** Appends records, all or none. OUT_OF_SPACE leaves the log as it was. */
  append(records: readonly LogRecord[]): void {
    this.#assertRunning();
    this.#halting(() => {
      this.#tlog.append(records);
    });
    this.#unsynced.add(this.#tlog.file);
  }

  /** Completes the open object, if any, so that the next cluster begins a new one. */
  sealObject(): void {
    const object = this.#object;
    if (object === null) return;
    this.#halting(() => {
      object.seal();
    });
    this.#object = null;
    this.#unsynced.add(object.file);
    this.#options.events.objectSealed({ objectId: object.objectId, file: object.file });
  }

  /**
   * Closes the open TLog, with its objects, and begins the next one. Nothing to do for a TLog without records. Returns
   * the slot up to which everything is sealed now. All or nothing: after OUT_OF_SPACE the open TLog goes on.
   */
  roll(next: NextTlog = {}): number {
    this.#assertRunning();
    this.sealObject();
    const needed = next.checkpoint !== undefined || next.evenEmpty === true;
    if (this.#tlog.records === 0 && !needed) return this.slot - 1;
    const sealed = this.#tlog;
    const { header } = sealed;
    this.#tlog = this.#halting(() => {
      const fresh = this.#openTlog({
        slot: header.slot + 1,
        checkpointSlot: next.checkpoint === undefined ? header.checkpointSlot : header.slot + 1,
        boundary: next.checkpoint?.replayFrom ?? header.boundary,
        previous: linkOf(header.nonce),
        replaces: noNonce,
      });
      try {
        // A header that promises a checkpoint is never without it, whatever the disk has room for.
        if (next.checkpoint !== undefined) {
          fresh.append([{ type: 'control', payload: next.checkpoint }]);
        }
        sealed.seal();
      } catch (error) {
        this.#discard(fresh.file);
        throw error;
      }
      return fresh;
    });
    this.#unsynced.add(sealed.file);
    if (this.#tlog.records > 0) this.#unsynced.add(this.#tlog.file);
    this.#options.events.tlogSealed({ header, file: sealed.file, sizeBytes: sealed.sizeBytes });
    return header.slot;
  }

  /** Resolves when everything appended before this call survives a power cut. HALTED when it can't be. */
  async sync(): Promise<void> {
    this.#assertRunning();
    if (this.#unsynced.size === 0 && this.#group.idle) return;
    await this.#group.sync();
  }

  /** Somebody else made the file durable (the uploader); it may be closed from now on. */
  fileIsDurable(file: DiskFile): void {
    this.#unsynced.delete(file);
    if (this.#unsynced.size === 0) this.#unsyncedBytes = 0; // or writers would wait for a sync of nothing
  }

  /** Nothing may be logged or flushed any more: somebody else found a failed sync, or a new owner. */
  halt(error: VolumeError): void {
    this.#halted ??= error;
  }

  /** Ends the log without another byte: the open files are closed as they are. */
  close(): void {
    this.#halted ??= new VolumeError('SHUTTING_DOWN', `volume ${this.#options.volume} is closed`);
    this.#tlog.file.close();
    if (this.#object === null) return;
    this.#options.reader.removeLocal(this.#object.objectId);
    this.#object.file.close();
  }

  #openTlog(
    place: Pick<TlogHeader, 'slot' | 'checkpointSlot' | 'boundary' | 'previous' | 'replaces'>,
  ): OpenTlog {
    const { disk, directory, random, volume, epoch, writer } = this.#options;
    const nonce = random.bytes(16).toString('hex');
    const file = disk.create(`${directory}/${localNames.tlog(place.slot)}`);
    this.#namesUnsynced = true;
    try {
      return new OpenTlog({ ...place, volume, epoch, writer, nonce }, file);
    } catch (error) {
      this.#discard(file);
      throw error;
    }
  }

  #discard(file: DiskFile): void {
    file.close();
    this.#options.disk.remove(file.path);
  }

  async #syncNow(): Promise<void> {
    this.#assertRunning();
    const files = [...this.#unsynced];
    const names = this.#namesUnsynced;
    const mark = { slot: this.slot, offset: this.#tlog.sizeBytes };
    this.#unsynced = new Set();
    this.#namesUnsynced = false;
    this.#unsyncedBytes = 0;
    const { disk, directory } = this.#options;
    const syncs = files.map(async (file) => {
      await file.sync();
    });
    if (names) syncs.push(disk.syncDirectory(directory));
    const results = await Promise.allSettled(syncs);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw this.#halt(toVolumeError(failed.reason, this.#what()));
    this.#mark(mark);
  }

  /** The mark is a hint for recovery: a full disk may leave it out. */
  #mark(mark: { slot: number; offset: number }): void {
    if (this.#halted !== null) return;
    try {
      this.#tlog.append([{ type: 'sync', ...mark }]);
    } catch (error) {
      if (!hasCode(error, 'OUT_OF_SPACE')) throw this.#halt(toVolumeError(error, this.#what()));
    }
  }

  #halting<Result>(write: () => Result): Result {
    try {
      return write();
    } catch (error) {
      if (hasCode(error, 'OUT_OF_SPACE')) throw error;
      throw this.#halt(toVolumeError(error, this.#what()));
    }
  }

  #what(): string {
    return `writing the log of volume ${this.#options.volume}`;
  }

  #halt(cause: VolumeError): VolumeError {
    if (this.#halted !== null) return this.#halted;
    const halted = new VolumeError(
      'HALTED',
      `volume ${this.#options.volume} stopped: ${cause.message}`,
      {
        cause,
      },
    );
    this.#halted = halted;
    this.#options.events.halted(halted);
    return halted;
  }

  #assertRunning(): void {
    if (this.#halted !== null) throw this.#halted;
    assert(this.#options.writer > 0, 'the log has a writer');
  }
}
