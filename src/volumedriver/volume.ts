/**
 * One open volume: an actor that owns its log, its image (state, map, accounts), its uploader and its clients. It is
 * made by recovery (open-volume.ts) and ends with close(), or halts: after that every request fails until the volume
 * is opened again.
 */
import { Mutex } from '../base/mutex.ts';
import type { Logger } from '../base/logger.ts';
import { VolumeError, hasCode, toVolumeError } from '../volumes/errors.ts';
import { Checkpointer, type Leftovers } from './checkpoint.ts';
import type { Environment } from './environment.ts';
import { clusterBytes } from './format/constants.ts';
import type { SnapshotState, StateChange, VolumeState } from './format/control.ts';
import type { SealedTlog, VolumeLog } from './log/volume-log.ts';
import type { PersistedRoot } from './map/page.ts';
import { readBytes } from './read-path.ts';
import { replayCost } from './replay-cost.ts';
import { applyChange } from './state.ts';
import type { Uploader } from './uploader.ts';
import { VolumeImage, type MapView } from './volume-image.ts';
import { WritePath } from './write-path.ts';

/** A checkpoint is due when it would free so many objects (64 MiB); a full disk doesn't wait. */
const doomedObjectsDue = 4;

export interface VolumeParts {
  environment: Environment;
  image: VolumeImage;
  log: VolumeLog;
  uploader: Uploader;
  /** Where the last checkpoint put the space accounts. */
  accountsKey: string | null;
  /** Bytes of records since the last checkpoint, as recovery replayed them. */
  replayedBytes: number;
  /** The volume's local directory: removed when it is closed with nothing left in it. */
  directory: string;
  leftovers: Leftovers;
}

/** A client of the volume: told when it must go. */
export interface VolumeClient {
  /** The generation that it opened with; null for a plain or snapshot export. */
  readonly generation: number | null;
  /** The snapshot that it reads; null for the head. */
  readonly snapshot: string | null;
  revoke(reason: VolumeError): void;
}

export class Volume {
  readonly clients = new Set<VolumeClient>();
  readonly #environment: Environment;
  readonly #image: VolumeImage;
  readonly #log: VolumeLog;
  readonly #uploader: Uploader;
  readonly #writes: WritePath;
  readonly #checkpointer: Checkpointer;
  readonly #logger: Logger;
  /** Checkpoints, removals, rollbacks and close exclude each other; snapshots and I/O don't. */
  readonly #maintenance = new Mutex();
  readonly #directory: string;
  readonly #leftovers: Leftovers;
  #hold: { promise: Promise<void>; resolve: () => void } | null = null;
  #bytesSinceCheckpoint: number;
  #changedSinceCheckpoint: boolean;
  /** Those of them that the checkpoint under way makes superfluous. */
  #bytesBeforeCut = 0;
  #halted: VolumeError | null = null;
  #closed = false;

  constructor(parts: VolumeParts) {
    this.#environment = parts.environment;
    this.#image = parts.image;
    this.#log = parts.log;
    this.#uploader = parts.uploader;
    this.#directory = parts.directory;
    this.#leftovers = parts.leftovers;
    this.#bytesSinceCheckpoint = parts.replayedBytes;
    this.#changedSinceCheckpoint = parts.replayedBytes > 0;
    this.#logger = parts.environment.logger.child({ volumeId: parts.image.state.id });
    this.#writes = new WritePath({
      log: parts.log,
      image: parts.image,
      readClusters: async (cluster, count) => {
        const { reader } = this.#environment;
        const bytes = await readBytes(
          this.#image.map,
          reader,
          cluster * clusterBytes,
          count * clusterBytes,
        );
        const whole = Buffer.concat(bytes);
        for (const buffer of bytes) reader.memory.giveBack(buffer);
        return whole;
      },
    });
    this.#checkpointer = new Checkpointer(
      {
        environment: parts.environment,
        image: parts.image,
        log: parts.log,
        uploader: parts.uploader,
        holdWrites: (hold) => {
          this.#holdWrites(hold);
        },
        commitQueued: () => {
          this.#writes.commit();
        },
        onCut: () => {
          this.#bytesBeforeCut = this.#bytesSinceCheckpoint;
          this.#changedSinceCheckpoint = false;
        },
      },
      parts.accountsKey,
      parts.leftovers.doomed,
    );
  }

  get state(): VolumeState {
    return this.#image.state;
  }

  /** What the log means now: for checks of what must hold between its parts. */
  get image(): VolumeImage {
    return this.#image;
  }

  get usedBytes(): number {
    return this.#image.accounts.usedBytes;
  }

  get halted(): VolumeError | null {
    return this.#halted;
  }

  /** It answers requests: neither halted nor closed. */
  get running(): boolean {
    return this.#halted === null && !this.#closed;
  }

  get sizeBytes(): number {
    return this.#image.state.sizeBytes;
  }

  async read(offset: number, length: number): Promise<Buffer[]> {
    this.#assertReadable();
    return await readBytes(this.#image.map, this.#environment.reader, offset, length);
  }

  get head(): MapView {
    this.#assertReadable();
    return this.#image.map;
  }

  snapshotView(snapshot: SnapshotState): MapView {
    this.#assertReadable();
    return this.#image.snapshotView(snapshot.number);
  }

  /** `alive` is asked after every wait: a request of a client that has gone is not applied any more. */
  async write(offset: number, data: Buffer, alive: () => boolean): Promise<void> {
    await this.#logging(data.length, alive, () => this.#writes.write(offset, data, alive));
  }

  async clear(offset: number, length: number, alive: () => boolean): Promise<void> {
    await this.#logging(0, alive, () => this.#writes.clear(offset, length, alive));
  }

  async writeZeroes(offset: number, length: number, alive: () => boolean): Promise<void> {
    await this.#logging(length, alive, () => this.#writes.writeZeroes(offset, length, alive));
  }

  /** Everything acknowledged so far is where the volume's `flushTo` says. */
  async flush(): Promise<void> {
    this.#assertRunning();
    this.#writes.commit();
    await this.#log.sync();
    this.#assertRunning(); // an upload may have found out meanwhile that the disk lost something
    if (this.state.flushTo === 'backend') await this.#uploader.committed(this.#roll());
  }

  /** Puts a change of state into the log; it counts once sync() has resolved. CORRUPT when it does not fit. */
  change(change: StateChange): void {
    this.#assertRunning();
    this.#writes.commit();
    applyChange(this.state, change); // what does not fit must not get into the log: no replay would pass it
    this.#withRoom(() => {
      this.#log.append([{ type: 'control', payload: change }]);
    });
    this.#image.applyChange(change, this.#log.slot);
    this.#changedSinceCheckpoint = true;
  }

  /** As change(), and durable when it resolves. */
  async durableChange(change: StateChange): Promise<void> {
    if (VolumeImage.needsDrain(change)) await this.#drainedChange(change);
    else this.change(change);
    await this.#log.sync();
  }

  /** Cuts a snapshot: everything acknowledged before is in it. Durable when it resolves; synced later. */
  async takeSnapshot(
    fields: Omit<Extract<StateChange, { kind: 'snapshotTaken' }>, 'kind'>,
  ): Promise<void> {
    this.#assertRunning();
    this.#writes.commit();
    this.#withRoom(() => {
      this.#log.sealObject();
    });
    this.change({ kind: 'snapshotTaken', ...fields });
    const slot = this.#roll();
    await (this.state.flushTo === 'backend' ? this.#uploader.committed(slot) : this.#log.sync());
    this.#assertRunning();
  }

  /** Whether the snapshot's record, and with it all its data, is in the backend. */
  isSynced(snapshot: string): boolean {
    const slot = this.#image.snapshotSlots.get(snapshot);
    return slot === undefined || slot <= this.#uploader.committedSlot;
  }

  async waitSynced(snapshot: string): Promise<void> {
    const slot = this.#image.snapshotSlots.get(snapshot);
    if (slot !== undefined) await this.#uploader.committed(slot);
  }

  /** Seals what is open and waits until it is in the backend. */
  async commitAll(): Promise<void> {
    this.#assertRunning();
    this.#writes.commit();
    await this.#uploader.committed(this.#roll());
  }

  /** The persisted root of a snapshot, for a clone: makes a checkpoint if there is none yet. */
  async persistedRoot(snapshot: SnapshotState): Promise<PersistedRoot | null> {
    const { snapshotMaps } = this.#image;
    if ((snapshotMaps.get(snapshot.number)?.frozen ?? null) !== null) await this.checkpoint();
    const map = snapshotMaps.get(snapshot.number);
    if (map?.frozen === null) return map.root;
    throw new VolumeError(
      'SNAPSHOT_NOT_FOUND',
      `cloning snapshot ${snapshot.id}: it was removed meanwhile`,
    );
  }

  async checkpoint(): Promise<void> {
    await this.#maintenance.run(async () => {
      await this.#checkpointNow();
    });
  }

  /** Called from time to time: makes a checkpoint when one is due. */
  async maintain(): Promise<void> {
    if (this.#halted !== null || this.#closed) return;
    if (this.#checkpointDue()) await this.checkpoint();
  }

  /** A checkpoint if anything changed, then nothing is left on the local disk. */
  async close(): Promise<void> {
    this.revokeClients(() => true, new VolumeError('SHUTTING_DOWN', 'the volume is being closed'));
    await this.#maintenance.run(async () => {
      if (this.#closed) return;
      try {
        if (this.#halted === null && this.#needsCheckpoint()) await this.#checkpointNow();
      } finally {
        this.#end();
      }
      if (this.#halted === null && this.#isStored()) this.#removeLog();
    });
  }

  /** Deletes what an earlier session may have left in the backend: nothing refers to it. */
  async sweep(): Promise<void> {
    await this.#maintenance.run(async () => {
      if (this.#halted === null && !this.#closed) await this.#checkpointer.sweep(this.#leftovers);
    });
  }

  /**
   * Ends, leaving everything as it is on the disk: the next open recovers it. Waits until nothing of this volume is on
   * its way to the backend any more, or recovery would race with it.
   */
  async abandon(): Promise<void> {
    this.revokeClients(() => true, new VolumeError('SHUTTING_DOWN', 'the volume is being closed'));
    this.#end();
    await this.#maintenance.run(() => this.#uploader.settled());
  }

  revokeClients(which: (client: VolumeClient) => boolean, reason: VolumeError): void {
    for (const client of [...this.clients]) {
      if (!which(client)) continue;
      this.clients.delete(client);
      client.revoke(reason);
    }
  }

  /** Stops the volume for good: its clients are dropped, so that a reconnect finds it opened again. */
  halt(error: VolumeError): void {
    if (this.#halted !== null || this.#closed) return;
    this.#halted = error;
    this.#logger.error('the volume halted', { code: error.code, error });
    this.revokeClients(() => true, error);
  }

  /** A TLog was closed: the next open has to replay it, until a checkpoint spares that. */
  noteSealed({ header, sizeBytes }: SealedTlog): void {
    this.#bytesSinceCheckpoint += replayCost(header, sizeBytes, this.#environment.limits);
  }

  #roll(): number {
    return this.#withRoom(() => this.#log.roll());
  }

  /** Changes of state, removals and commits may use the space that is kept for them when the disk is full. */
  #withRoom<Result>(append: () => Result): Result {
    try {
      return append();
    } catch (error) {
      if (!hasCode(error, 'OUT_OF_SPACE')) throw error;
      this.#environment.space.diskIsFull();
      return append();
    }
  }

  async #drainedChange(change: StateChange): Promise<void> {
    await this.#maintenance.run(async () => {
      this.#holdWrites(true);
      try {
        this.#writes.commit();
        await this.#image.map.drained();
        this.#withRoom(() => {
          this.#log.sealObject();
        });
        this.change(change);
      } finally {
        this.#holdWrites(false);
      }
    });
  }

  async #checkpointNow(): Promise<void> {
    this.#assertRunning();
    try {
      await this.#checkpointer.run();
      this.#bytesSinceCheckpoint -= this.#bytesBeforeCut;
    } catch (error) {
      this.#changedSinceCheckpoint = true;
      if (hasCode(error, 'OUT_OF_SPACE')) this.#environment.space.diskIsFull();
      throw error;
    }
  }

  #checkpointDue(): boolean {
    const { limits, space } = this.#environment;
    if (this.#bytesSinceCheckpoint > limits.replayBytesMax) return true;
    const { doomedCount } = this.#image.accounts;
    return doomedCount >= (space.full ? 1 : doomedObjectsDue);
  }

  #needsCheckpoint(): boolean {
    return (
      this.#changedSinceCheckpoint ||
      this.#bytesSinceCheckpoint > 0 ||
      this.#image.accounts.doomedCount > 0
    );
  }

  /** Waits until a write may be appended: back-pressure, never more than that. */
  async #admit(bytes: number, alive: () => boolean): Promise<void> {
    for (;;) {
      const wait = this.#obstacle(bytes);
      if (wait === undefined) return;
      await wait;
      this.#assertRunning();
      if (!alive()) throw new VolumeError('SHUTTING_DOWN', 'writing: the client has gone');
    }
  }

  /** What a write has to wait for now. */
  #obstacle(bytes: number): Promise<void> | undefined {
    this.#assertRunning();
    if (bytes > 0) this.#environment.space.assertRoom();
    return this.#hold?.promise ?? this.#image.map.pressure() ?? this.#unsyncedPressure();
  }

  #unsyncedPressure(): Promise<void> | undefined {
    const { limits } = this.#environment;
    if (this.#log.unsyncedBytes < limits.earlySyncBytes) return undefined;
    const sync = this.#log.sync();
    if (this.#log.unsyncedBytes >= limits.unsyncedBytesMax) return sync;
    sync.catch(() => undefined); // a failed sync halts the volume: every later request says so
    return undefined;
  }

  /** Calls `write` in the caller's turn unless there is something to wait for: so the order of the calls is kept. */
  async #logging(bytes: number, alive: () => boolean, write: () => Promise<void>): Promise<void> {
    if (this.#obstacle(bytes) !== undefined) await this.#admit(bytes, alive);
    try {
      await write();
    } catch (error) {
      if (hasCode(error, 'OUT_OF_SPACE')) this.#environment.space.diskIsFull();
      throw error;
    }
    this.#logged();
  }

  /** After records were appended: a long TLog is closed and goes to the backend. */
  #logged(): void {
    this.#changedSinceCheckpoint = true;
    if (this.#log.tlogBytes < this.#environment.limits.tlogBytesMax || this.#halted !== null)
      return;
    try {
      this.#log.roll();
    } catch (error) {
      // The write itself is in the log; a full disk only puts off the next TLog.
      if (!hasCode(error, 'OUT_OF_SPACE')) this.halt(toVolumeError(error, 'closing a TLog'));
    }
  }

  #holdWrites(hold: boolean): void {
    if (hold) this.#hold ??= Promise.withResolvers<void>();
    else {
      this.#hold?.resolve();
      this.#hold = null;
    }
  }

  /** Nothing was logged behind the last committed slot, not even by a request that was late. */
  #isStored(): boolean {
    return this.#uploader.committedSlot >= this.#log.slot - 1 && !this.#log.hasRecords;
  }

  /** Everything is in the backend: what is left here is an empty TLog. */
  #removeLog(): void {
    const { disk } = this.#environment;
    const { directory } = this.#log;
    for (const name of disk.list(directory)) disk.remove(`${directory}/${name}`);
    disk.remove(directory);
    if (disk.list(this.#directory).length === 0) disk.remove(this.#directory);
  }

  #end(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#uploader.stop();
    this.#log.close();
    this.#image.close();
  }

  #assertRunning(): void {
    this.#assertReadable();
    if (this.#halted !== null) throw this.#halted;
  }

  #assertReadable(): void {
    if (this.#closed) {
      throw new VolumeError('SHUTTING_DOWN', `using volume ${this.state.name}: it is being closed`);
    }
    if (this.#halted?.code === 'FENCED') throw this.#halted;
  }
}
