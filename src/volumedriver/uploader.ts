/**
 * Carries sealed objects and TLogs of one volume to the backend. Objects go in any order, a few at a time; a TLog is
 * committed, by creating its numbered slot, only after every object sealed before it is stored and after the slot
 * before it: so what the backend holds is always a prefix of the log. Failures are retried for as long as the volume is
 * open; only a slot that somebody else has taken ends it: the volume is fenced.
 */
import pLimit from 'p-limit';
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { VolumeError, toVolumeError } from '../volumes/errors.ts';
import type { Disk, DiskFile } from './disk/disk.ts';
import { decodeTlogHeader, tlogHeaderBytes, type TlogHeader } from './format/tlog-header.ts';
import { formatObjectId } from './format/location.ts';
import { keys } from './keys.ts';
import type { SealedObject, SealedTlog } from './log/volume-log.ts';
import type { ObjectReader } from './object-reader.ts';
import type { ObjectStore } from './store/object-store.ts';

const parallelUploads = 4;
const retryMsFirst = 100;
const retryMsMax = 10_000;

export interface UploaderOptions {
  disk: Disk;
  store: ObjectStore;
  reader: ObjectReader;
  clock: Clock;
  logger: Logger;
  volume: string;
  /** The newest slot that is in the backend already. */
  committedSlot: number;
  /** The file is durable and may be closed: the log need not sync it any more. */
  onDurable(file: DiskFile): void;
  /** An upload found no space: it is tried again. */
  onFull?(): void;
  /** FENCED or HALTED: nothing more of this volume can be stored by us. */
  onEnded(error: VolumeError): void;
}

export class Uploader {
  readonly #options: UploaderOptions;
  readonly #limit = pLimit(parallelUploads);
  readonly #stop = new AbortController();
  /** Uploads of objects that the next TLog must wait for. */
  #objects: Promise<void>[] = [];
  /** Those that the newest TLog waits for. */
  #waitedFor: Promise<void>[] = [];
  #slots: Promise<void> = Promise.resolve();
  #committedSlot: number;
  #waiters: { slot: number; resolve: () => void; reject: (error: VolumeError) => void }[] = [];
  #ended: VolumeError | null = null;

  constructor(options: UploaderOptions) {
    this.#options = options;
    this.#committedSlot = options.committedSlot;
  }

  get committedSlot(): number {
    return this.#committedSlot;
  }

  addObject(object: SealedObject): void {
    const upload = this.#limit(async () => {
      await this.#retrying(`storing object ${formatObjectId(object.objectId)}`, async () => {
        await this.#storeObject(object);
      });
    });
    upload.catch(() => undefined); // whoever waits for the TLog behind it sees the failure
    this.#objects.push(upload);
  }

  addTlog(tlog: SealedTlog): void {
    const objects = this.#objects;
    this.#objects = [];
    this.#waitedFor = objects;
    this.#slots = this.#slots.then(async () => {
      await Promise.all(objects);
      await this.#retrying(`committing slot ${tlog.header.slot}`, async () => {
        await this.#commit(tlog);
      });
    });
    this.#slots.catch((error: unknown) => {
      this.#end(toVolumeError(error, `committing slot ${tlog.header.slot}`));
    });
  }

  /** Resolves once that slot is in the backend; rejects with FENCED, or SHUTTING_DOWN when the volume closes first. */
  async committed(slot: number): Promise<void> {
    if (slot <= this.#committedSlot) return;
    if (this.#ended !== null) throw this.#ended;
    await new Promise<void>((resolve, reject) => {
      this.#waiters.push({ slot, resolve, reject });
    });
  }

  /** Gives up what is not stored yet: it stays in the local directory for the next open. */
  stop(): void {
    this.#end(new VolumeError('SHUTTING_DOWN', `volume ${this.#options.volume} is closed`));
  }

  /** Resolves when nothing is on its way any more. Called after stop(). */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#objects, ...this.#waitedFor, this.#slots]);
  }

  async #storeObject({ objectId, file }: SealedObject): Promise<void> {
    const { store, reader, disk } = this.#options;
    await this.#sync(file);
    await store.putFile(keys.object(objectId), file.path);
    if (this.#ended !== null) throw this.#ended;
    this.#options.onDurable(file);
    reader.removeLocal(objectId);
    file.close();
    disk.remove(file.path);
  }

  async #commit({ header, file }: SealedTlog): Promise<void> {
    const { store, disk, volume } = this.#options;
    await this.#sync(file);
    const bytes = Buffer.alloc(file.sizeBytes());
    await file.read(bytes, 0);
    const key = keys.slot(volume, header.slot);
    if (!(await store.putIfAbsent(key, [bytes]))) await this.#assertOurs(key, header);
    if (this.#ended !== null) throw this.#ended;
    this.#options.onDurable(file);
    file.close();
    disk.remove(file.path);
    this.#committedSlot = header.slot;
    this.#wake();
  }

  /** The slot exists: from an earlier attempt of ours, or because another owner has taken the volume. */
  async #assertOurs(key: string, header: TlogHeader): Promise<void> {
    const bytes = await this.#options.store.get(key, { offset: 0, length: tlogHeaderBytes });
    const existing = bytes === undefined ? undefined : decodeTlogHeader(bytes);
    if (existing?.nonce === header.nonce) return;
    const error = new VolumeError(
      'FENCED',
      `committing slot ${header.slot} of volume ${header.volume}: another volumedriver has taken the volume` +
        (existing === undefined ? '' : ` (epoch ${existing.epoch}, writer ${existing.writer})`),
    );
    throw error;
  }

  /** A failed sync is final: the kernel forgets what it could not write, so that a second one proves nothing. */
  async #sync(file: DiskFile): Promise<void> {
    try {
      await file.sync();
    } catch (error) {
      throw new VolumeError('HALTED', `volume ${this.#options.volume} stopped: a sync failed`, {
        cause: error,
      });
    }
  }

  async #retrying(what: string, attempt: () => Promise<void>): Promise<void> {
    for (let waitMs = retryMsFirst; ; waitMs = Math.min(2 * waitMs, retryMsMax)) {
      if (this.#ended !== null) throw this.#ended;
      try {
        await attempt();
        return;
      } catch (error) {
        const failure = toVolumeError(error, what);
        if (failure.code === 'FENCED' || failure.code === 'HALTED') {
          this.#end(failure);
          this.#options.onEnded(failure);
          throw failure;
        }
        if (this.#stopped()) throw failure;
        if (failure.code === 'OUT_OF_SPACE') this.#options.onFull?.();
        this.#options.logger.warn('the backend refused an upload, trying again', {
          what,
          error,
          waitMs,
        });
      }
      await this.#options.clock.sleep(waitMs, this.#stop.signal);
    }
  }

  #stopped(): boolean {
    return this.#ended !== null;
  }

  #wake(): void {
    const ready = this.#waiters.filter((waiter) => waiter.slot <= this.#committedSlot);
    this.#waiters = this.#waiters.filter((waiter) => waiter.slot > this.#committedSlot);
    for (const waiter of ready) waiter.resolve();
  }

  #end(error: VolumeError): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#stop.abort(error);
    assert(this.#ended.message.length > 0, 'an end has a reason');
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters = [];
  }
}
