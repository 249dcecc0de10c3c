/**
 * A VolumeService without a data path: volumes, snapshots, clones and grants live in maps and follow the contract
 * of src/volumes/volume-service.ts, so that CSI services, API servers and vdctl can be tested without an engine.
 * What an engine would learn from its clients (writes, connections, damage, a slow backend) is told by the
 * methods under "what a test can make happen". Nothing here yields between check and change.
 */
import { monotonicFactory } from 'ulid';
import type { Clock } from '../../src/base/clock.ts';
import { systemClock } from '../../src/base/clock.ts';
import { VolumeError } from '../../src/volumes/errors.ts';
import type {
  CreateSnapshotRequest,
  CreateVolumeRequest,
  DriverInfo,
  ExportTarget,
  Page,
  PageRequest,
  RemovalMode,
  SnapshotRef,
  VolumeService,
} from '../../src/volumes/volume-service.ts';
import type { Capacity, ExportAddress, Snapshot, Volume } from '../../src/volumes/volume.ts';
import type { SnapshotRecord, VolumeRecord } from './memory-volume-records.ts';
import {
  MemoryVolumeTables,
  checkName,
  checkSameVolume,
  checkUnused,
  exportAddress,
  findGrant,
  paginate,
  publicVolume,
  ulidOf,
} from './memory-volume-records.ts';

const clusterBytes = 4096;
const syncPollMs = 20;

export interface MemoryVolumeServiceOptions {
  nodeId?: string;
  backendId?: string;
  shared?: boolean;
  capacityBytes?: number;
  volumeBytesMax?: number;
  /** How long a snapshot takes to reach the imaginary backend. */
  syncDelayMs?: number;
  clock?: Clock;
}

export class MemoryVolumeService implements VolumeService {
  ready = true;
  syncDelayMs: number;
  readonly #info: Omit<DriverInfo, 'ready'>;
  readonly #capacityBytes: number;
  readonly #volumeBytesMax: number;
  readonly #clock: Clock;
  readonly #newUlid = monotonicFactory();
  readonly #tables = new MemoryVolumeTables();
  readonly #failures = new Map<keyof VolumeService, VolumeError[]>();

  constructor(options: MemoryVolumeServiceOptions = {}) {
    this.#info = {
      version: '0.0.0-memory',
      nodeId: options.nodeId ?? 'node-1',
      backendId: options.backendId ?? 'memory',
      shared: options.shared ?? false,
    };
    this.#capacityBytes = options.capacityBytes ?? 2 ** 40;
    this.#volumeBytesMax = options.volumeBytesMax ?? 2 ** 46;
    this.syncDelayMs = options.syncDelayMs ?? 0;
    this.#clock = options.clock ?? systemClock;
  }

  // ------------------------------------------------------------------------- what a test can make happen

  /** The next call of `method` rejects with this error; several queue up. */
  failNext(method: keyof VolumeService, error: VolumeError): void {
    this.#failures.set(method, [...(this.#failures.get(method) ?? []), error]);
  }

  /** A client wrote to the volume. */
  markWritten(volume: string): void {
    this.#tables.find(volume).written = true;
  }

  setClients(volume: string, clients: number): void {
    this.#tables.find(volume).clients = clients;
  }

  /** The volume met a failed write; null opens it again. */
  setHalted(volume: string, reason: string | null): void {
    this.#tables.find(volume).halted = reason;
  }

  /** Keeps an operation under way on the volume until the returned function is called. */
  hold(volume: string): () => void {
    const { id } = this.#tables.find(volume);
    this.#tables.busy.add(id);
    return () => void this.#tables.busy.delete(id);
  }

  // ------------------------------------------------------------------------- the contract

  info(): Promise<DriverInfo> {
    return this.#call('info', () => ({ ...this.#info, ready: this.ready }));
  }

  capacity(): Promise<Capacity> {
    return this.#call('capacity', () => ({
      totalBytes: this.#capacityBytes,
      availableBytes: this.#capacityBytes,
    }));
  }

  createVolume(request: CreateVolumeRequest): Promise<Volume> {
    return this.#call('createVolume', () => {
      checkName('create volume', request.name);
      const sizeBytes = this.#roundedSize('create volume', request.sizeBytes);
      const flushTo = request.flushTo ?? (this.#info.shared ? 'backend' : 'local');
      const existing = this.#tables.volumeNamed(request.name);
      if (existing !== undefined) {
        checkSameVolume(existing, { sizeBytes, flushTo, source: request.source ?? null });
        return publicVolume(existing);
      }
      const origin = this.#tables.origin(request.source);
      if (sizeBytes < origin.sizeBytes) {
        throw new VolumeError(
          'OUT_OF_RANGE',
          `create volume: ${sizeBytes} bytes are less than the ${origin.sizeBytes} of its source`,
        );
      }
      const record: VolumeRecord = {
        id: this.#newId(),
        name: request.name,
        sizeBytes,
        createdSizeBytes: sizeBytes,
        createdAtMs: this.#clock.now(),
        source: origin.source,
        flushTo,
        grants: [],
        generation: 0,
        written: origin.written,
        formatting: origin.formatting,
        clients: 0,
        halted: null,
      };
      this.#tables.volumes.set(record.id, record);
      return publicVolume(record);
    });
  }

  removeVolume(volume: string, mode: RemovalMode): Promise<void> {
    return this.#call('removeVolume', () => {
      const record = this.#tables.idle(volume);
      checkUnused('remove volume', record);
      if (mode === 'strict') {
        const snapshots = this.#tables.snapshotsOf(record.id);
        if (snapshots.length > 0 || this.#tables.hasClones('volume', record.id)) {
          throw new VolumeError(
            'HAS_CLONES',
            `remove volume: ${record.name} has snapshots or clones`,
          );
        }
      }
      this.#tables.volumes.delete(record.id);
    });
  }

  getVolume(volume: string): Promise<Volume> {
    return this.#call('getVolume', () => publicVolume(this.#tables.find(volume)));
  }

  listVolumes(page: PageRequest): Promise<Page<Volume>> {
    return this.#call('listVolumes', () =>
      paginate('volumes', [...this.#tables.volumes.values()].map(publicVolume), page),
    );
  }

  growVolume(volume: string, sizeBytes: number): Promise<Volume> {
    return this.#call('growVolume', () => {
      const record = this.#tables.idle(volume);
      const rounded = this.#roundedSize('grow volume', sizeBytes);
      if (rounded < record.sizeBytes) {
        throw new VolumeError(
          'OUT_OF_RANGE',
          `grow volume: it has ${record.sizeBytes} bytes and never shrinks`,
        );
      }
      record.sizeBytes = rounded;
      return publicVolume(record);
    });
  }

  async createSnapshot(request: CreateSnapshotRequest): Promise<Snapshot> {
    const { record, fresh } = await this.#call('createSnapshot', () => this.#cutSnapshot(request));
    if (request.timeoutSeconds < 0 || this.#isSynced(record)) return this.#publicSnapshot(record);
    const release = this.hold(record.volumeId);
    try {
      const limitMs = request.timeoutSeconds === 0 ? Infinity : request.timeoutSeconds * 1000;
      if (await this.#waitUntilSynced(record, limitMs)) return this.#publicSnapshot(record);
      if (fresh) this.#tables.snapshots.delete(record.id);
      throw new VolumeError(
        'SNAPSHOT_TIMEOUT',
        `create snapshot: ${request.name} was not synced within ${request.timeoutSeconds} s`,
      );
    } finally {
      release();
    }
  }

  removeSnapshot(snapshot: SnapshotRef, mode: RemovalMode): Promise<void> {
    return this.#call('removeSnapshot', () => {
      const record = this.#tables.findSnapshot(snapshot);
      if (mode === 'strict' && this.#tables.hasClones('snapshot', record.id)) {
        throw new VolumeError('HAS_CLONES', `remove snapshot: ${record.name} has clones`);
      }
      this.#tables.snapshots.delete(record.id);
    });
  }

  rollbackSnapshot(snapshot: SnapshotRef): Promise<void> {
    return this.#call('rollbackSnapshot', () => {
      const target = this.#tables.findSnapshot(snapshot);
      const record = this.#tables.idle(target.volumeId);
      checkUnused('roll back', record);
      const newer = this.#tables.snapshotsOf(record.id).filter((other) => other.id > target.id);
      const cloned = newer.find((other) => this.#tables.hasClones('snapshot', other.id));
      if (cloned !== undefined) {
        throw new VolumeError(
          'HAS_CLONES',
          `roll back: the newer snapshot ${cloned.name} has clones`,
        );
      }
      for (const other of newer) this.#tables.snapshots.delete(other.id);
      record.written = target.written;
      record.formatting = target.formatting;
    });
  }

  getSnapshot(snapshot: SnapshotRef): Promise<Snapshot> {
    return this.#call('getSnapshot', () =>
      this.#publicSnapshot(this.#tables.findSnapshot(snapshot)),
    );
  }

  /** Unknown filters match nothing. */
  listSnapshots(
    filter: { volume?: string; snapshot?: string },
    page: PageRequest,
  ): Promise<Page<Snapshot>> {
    return this.#call('listSnapshots', () => {
      let found = [...this.#tables.snapshots.values()];
      if (filter.volume !== undefined) {
        const wanted =
          this.#tables.volumes.get(filter.volume) ?? this.#tables.volumeNamed(filter.volume);
        const volumeId = wanted?.id ?? filter.volume;
        found = found.filter((snapshot) => snapshot.volumeId === volumeId);
      }
      if (filter.snapshot !== undefined) {
        const byId = found.filter((snapshot) => snapshot.id === filter.snapshot);
        const byName = found.filter(
          (snapshot) => snapshot.claimed && snapshot.name === filter.snapshot,
        );
        found = byId.length > 0 ? byId : byName;
      }
      const items = found.map((snapshot) => this.#publicSnapshot(snapshot));
      return paginate('snapshots', items, page);
    });
  }

  async waitSnapshot(snapshot: SnapshotRef, timeoutSeconds: number): Promise<Snapshot> {
    const record = await this.#call('waitSnapshot', () => this.#tables.findSnapshot(snapshot));
    if (await this.#waitUntilSynced(record, timeoutSeconds * 1000))
      return this.#publicSnapshot(record);
    throw new VolumeError(
      'SNAPSHOT_TIMEOUT',
      `wait: ${record.name} was not synced within ${timeoutSeconds} s`,
    );
  }

  grant(volume: string, node: string, options: { readOnly: boolean }): Promise<number> {
    return this.#call('grant', () => {
      const record = this.#tables.idle(volume);
      if (node === '') throw new VolumeError('INVALID_ARGUMENT', 'grant: the node is empty');
      const own = record.grants.find((grant) => grant.node === node);
      if (own !== undefined) {
        if (own.readOnly === options.readOnly) return own.generation;
        throw new VolumeError('ALREADY_EXISTS', `grant: ${node} has the volume in the other mode`);
      }
      const other = record.grants.find((grant) => !grant.readOnly || !options.readOnly);
      if (other !== undefined)
        throw new VolumeError('VOLUME_IN_USE', `grant: node ${other.node} has the volume`);
      record.generation += 1;
      record.grants.push({ node, readOnly: options.readOnly, generation: record.generation });
      return record.generation;
    });
  }

  revoke(volume: string, node: string | null): Promise<void> {
    return this.#call('revoke', () => {
      const record = this.#tables.idle(volume);
      const kept = record.grants.filter((grant) => node !== null && grant.node !== node);
      if (kept.length === record.grants.length) return;
      record.grants = kept;
      record.generation += 1;
      record.clients = 0;
    });
  }

  getExport(target: ExportTarget): Promise<ExportAddress> {
    return this.#call('getExport', () => {
      switch (target.kind) {
        case 'granted': {
          const record = this.#tables.find(target.volume);
          const grant = findGrant('export', record, target.generation);
          const name = `${ulidOf(record.id)}#${target.generation}`;
          return exportAddress(name, record.sizeBytes, grant.readOnly);
        }
        case 'plain': {
          const record = this.#tables.find(target.volume);
          return exportAddress(ulidOf(record.id), record.sizeBytes, false);
        }
        case 'snapshot': {
          const record = this.#tables.findSnapshot(target.snapshot);
          return exportAddress(
            `${ulidOf(record.volumeId)}@${ulidOf(record.id)}`,
            record.sizeBytes,
            true,
          );
        }
      }
    });
  }

  beginFormatting(volume: string, generation: number, filesystem: string): Promise<void> {
    return this.#call('beginFormatting', () => {
      const record = this.#tables.idle(volume);
      const grant = findGrant('format', record, generation);
      if (grant.readOnly) throw new VolumeError('READ_ONLY', 'format: the grant is read-only');
      if (record.written && record.formatting === null) {
        throw new VolumeError(
          'NOT_CAPABLE',
          `format: ${record.name} has been written and is never formatted again`,
        );
      }
      record.formatting = filesystem;
    });
  }

  endFormatting(volume: string, generation: number): Promise<void> {
    return this.#call('endFormatting', () => {
      const record = this.#tables.idle(volume);
      findGrant('end formatting', record, generation);
      if (record.formatting === null) return;
      record.formatting = null;
      record.written = true;
    });
  }

  syncVolume(volume: string): Promise<void> {
    return this.#call('syncVolume', () => {
      const record = this.#tables.idle(volume);
      if (record.halted !== null) throw new VolumeError('HALTED', `sync: ${record.halted}`);
    });
  }

  // ------------------------------------------------------------------------- inside

  /** Runs a call on a later turn, as a remote one would, with its planned failure if there is one. */
  async #call<Result>(method: keyof VolumeService, body: () => Result): Promise<Result> {
    await Promise.resolve();
    const failure = this.#failures.get(method)?.shift();
    if (failure !== undefined) throw failure;
    return body();
  }

  #newId(): string {
    return `${this.#info.backendId}.${this.#newUlid(this.#clock.now())}`;
  }

  #roundedSize(what: string, sizeBytes: number): number {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
      throw new VolumeError(
        'INVALID_ARGUMENT',
        `${what}: a size of ${sizeBytes} bytes is not positive`,
      );
    }
    if (sizeBytes > this.#volumeBytesMax) {
      throw new VolumeError(
        'OUT_OF_RANGE',
        `${what}: ${sizeBytes} bytes are more than ${this.#volumeBytesMax}`,
      );
    }
    return Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
  }

  /** Cuts the snapshot, or finds the one that a repeated call with a claimed name means. */
  #cutSnapshot(request: CreateSnapshotRequest): { record: SnapshotRecord; fresh: boolean } {
    checkName('create snapshot', request.name);
    if (!Number.isSafeInteger(request.timeoutSeconds)) {
      throw new VolumeError(
        'INVALID_ARGUMENT',
        'create snapshot: the timeout is not a whole number of seconds',
      );
    }
    const claim = request.claimName ?? false;
    const volume = this.#tables.find(request.volume);
    const claimed = [...this.#tables.snapshots.values()].find(
      (one) => one.claimed && one.name === request.name,
    );
    if (claim && claimed !== undefined && claimed.volumeId !== volume.id) {
      throw new VolumeError(
        'ALREADY_EXISTS',
        `create snapshot: ${request.name} is a snapshot of another volume`,
      );
    }
    const existing = this.#tables.snapshotsOf(volume.id).find((one) => one.name === request.name);
    if (existing !== undefined) {
      if (!claim)
        throw new VolumeError(
          'ALREADY_EXISTS',
          `create snapshot: ${volume.name} has ${request.name}`,
        );
      existing.claimed = true;
      return { record: existing, fresh: false };
    }
    this.#tables.idle(volume.id);
    const record: SnapshotRecord = {
      id: this.#newId(),
      name: request.name,
      claimed: claim,
      volumeId: volume.id,
      createdAtMs: this.#clock.now(),
      sizeBytes: volume.sizeBytes,
      syncedAtMs: this.#clock.monotonicMs() + this.syncDelayMs,
      written: volume.written,
      formatting: volume.formatting,
    };
    this.#tables.snapshots.set(record.id, record);
    return { record, fresh: true };
  }

  #isSynced(record: SnapshotRecord): boolean {
    return this.#clock.monotonicMs() >= record.syncedAtMs;
  }

  /** False when it was not synced within the limit; SNAPSHOT_NOT_FOUND when it is removed meanwhile. */
  async #waitUntilSynced(record: SnapshotRecord, limitMs: number): Promise<boolean> {
    const giveUpAtMs = this.#clock.monotonicMs() + limitMs;
    while (!this.#isSynced(record)) {
      if (this.#clock.monotonicMs() >= giveUpAtMs) return false;
      await this.#clock.sleep(syncPollMs);
      if (!this.#tables.snapshots.has(record.id)) {
        throw new VolumeError(
          'SNAPSHOT_NOT_FOUND',
          `wait: snapshot ${record.name} was removed meanwhile`,
        );
      }
    }
    return true;
  }

  #publicSnapshot(record: SnapshotRecord): Snapshot {
    const { id, name, volumeId, createdAtMs, sizeBytes } = record;
    return { id, name, volumeId, createdAtMs, sizeBytes, synced: this.#isSynced(record) };
  }
}
