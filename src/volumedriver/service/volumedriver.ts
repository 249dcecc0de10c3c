/**
 * A volumedriver: the VolumeService over one backend, on one engine thread. Wiring and life cycle are here; what each
 * call does is in volume-operations, snapshot-operations and access-operations.
 */
import pLimit from 'p-limit';
import { monotonicFactory } from 'ulid';
import { describeError } from '../../base/logger.ts';
import { hasCode } from '../../volumes/errors.ts';
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
} from '../../volumes/volume-service.ts';
import type { Capacity, ExportAddress, Snapshot, Volume } from '../../volumes/volume.ts';
import type { Environment } from '../environment.ts';
import * as access from './access-operations.ts';
import { Catalog, type Entry } from './catalog.ts';
import {
  describeSnapshot,
  describeVolume,
  type ServiceContext,
  type ServiceOptions,
} from './context.ts';
import { pageOf } from './naming.ts';
import { resumeRemovals } from './removal.ts';
import { deleteStrayRecords } from './stray-records.ts';
import * as snapshots from './snapshot-operations.ts';
import * as volumes from './volume-operations.ts';

const maintenanceMs = 1000;
const parallelRecoveries = 4;
/** A volume that the backend does not take back must not keep the others from being served. */
const recoveryMsMax = 60_000;
/** How long a stop waits for removals that are being finished; the next start goes on with them. */
const removalMsMax = 5000;

export class Volumedriver implements VolumeService {
  readonly catalog: Catalog;
  readonly #context: ServiceContext;
  readonly #stop = new AbortController();
  #maintenance: Promise<void> | null = null;
  /** Removals that are being finished. */
  #removals: Promise<void> | null = null;
  #ready = false;

  constructor(environment: Environment, options: ServiceOptions) {
    this.catalog = new Catalog(environment, options.backendId);
    const ulid = monotonicFactory(() => environment.random.bytes(4).readUInt32LE(0) / 2 ** 32);
    const newId = (): string => ulid(environment.clock.now());
    this.#context = { environment, options, catalog: this.catalog, newId };
  }

  /** Reads the catalog, recovers what an earlier process left open, finishes interrupted removals. */
  async start(): Promise<void> {
    const { logger } = this.#context.environment;
    const limit = pLimit(parallelRecoveries);
    const unclean = await this.catalog.load();
    const recovered = Promise.all(unclean.map((entry) => limit(() => this.#recover(entry))));
    if (!(await this.#within(recoveryMsMax, recovered))) {
      logger.error('recovery takes long: volumes that are not recovered yet open when they are', {
        seconds: recoveryMsMax / 1000,
      });
    }
    if (!(await this.#within(recoveryMsMax, this.#resumeRemovals()))) {
      logger.error('finishing interrupted removals takes long: it goes on');
    }
    await this.#deleteStrayRecords();
    this.#maintenance = this.#maintain();
    this.#ready = true;
  }

  /** Ends in order: volumes are checkpointed and closed. Idempotent. */
  async close(): Promise<void> {
    this.#ready = false;
    this.#stop.abort();
    await this.#maintenance;
    if (this.#removals !== null) await this.#within(removalMsMax, this.#removals);
    await this.catalog.closeAll();
  }

  info(): Promise<DriverInfo> {
    const { version, nodeId, backendId, shared } = this.#context.options;
    return Promise.resolve({ version, nodeId, backendId, shared, ready: this.#ready });
  }

  async capacity(): Promise<Capacity> {
    const { store, space } = this.#context.environment;
    const local = await space.capacity();
    const backend = await store.capacity();
    if (backend === null || local.availableBytes <= backend.availableBytes) return local;
    return backend;
  }

  async createVolume(request: CreateVolumeRequest): Promise<Volume> {
    return await volumes.createVolume(this.#context, request);
  }

  async removeVolume(volume: string, mode: RemovalMode): Promise<void> {
    await volumes.removeVolume(this.#context, volume, mode);
  }

  async getVolume(volume: string): Promise<Volume> {
    const entry = this.catalog.find(volume);
    return await Promise.resolve(describeVolume(this.#context, entry));
  }

  async listVolumes(page: PageRequest): Promise<Page<Volume>> {
    const entries = this.catalog.entries.filter((entry) => !this.catalog.stateOf(entry).removed);
    const items = entries.map((entry) => describeVolume(this.#context, entry));
    return await Promise.resolve(pageOf(items, page, this.#isToken));
  }

  async growVolume(volume: string, sizeBytes: number): Promise<Volume> {
    return await volumes.growVolume(this.#context, volume, sizeBytes);
  }

  async createSnapshot(request: CreateSnapshotRequest): Promise<Snapshot> {
    return await snapshots.createSnapshot(this.#context, request);
  }

  async removeSnapshot(snapshot: SnapshotRef, mode: RemovalMode): Promise<void> {
    await snapshots.removeSnapshot(this.#context, snapshot, mode);
  }

  async rollbackSnapshot(snapshot: SnapshotRef): Promise<void> {
    await snapshots.rollbackSnapshot(this.#context, snapshot);
  }

  async getSnapshot(snapshot: SnapshotRef): Promise<Snapshot> {
    return await Promise.resolve(snapshots.getSnapshot(this.#context, snapshot));
  }

  async listSnapshots(
    filter: { volume?: string; snapshot?: string },
    page: PageRequest,
  ): Promise<Page<Snapshot>> {
    const found = this.#snapshots(filter.snapshot).filter(({ volumeId }) =>
      this.#isOf(volumeId, filter.volume),
    );
    return await Promise.resolve(pageOf(found, page, this.#isToken));
  }

  async waitSnapshot(snapshot: SnapshotRef, timeoutSeconds: number): Promise<Snapshot> {
    return await snapshots.waitSnapshot(this.#context, snapshot, timeoutSeconds);
  }

  async grant(volume: string, node: string, options: { readOnly: boolean }): Promise<number> {
    return await access.grant(this.#context, volume, node, options.readOnly);
  }

  async revoke(volume: string, node: string | null): Promise<void> {
    await access.revoke(this.#context, volume, node);
  }

  async getExport(target: ExportTarget): Promise<ExportAddress> {
    return await Promise.resolve(access.getExport(this.#context, target));
  }

  async beginFormatting(volume: string, generation: number, filesystem: string): Promise<void> {
    await access.beginFormatting(this.#context, volume, generation, filesystem);
  }

  async endFormatting(volume: string, generation: number): Promise<void> {
    await access.endFormatting(this.#context, volume, generation);
  }

  async syncVolume(volume: string): Promise<void> {
    const entry = this.catalog.find(volume);
    const isClosed = entry.volume === null && entry.opening === null;
    if (isClosed && !this.catalog.isUnrecovered(entry)) return; // it is in the backend
    const open = await this.catalog.open(entry); // again, should it have halted
    await open.flush();
  }

  /** Those that the filter names by their own id or claimed name; all of them when it doesn't. */
  #snapshots(named: string | undefined): Snapshot[] {
    const ulid = named === undefined ? undefined : this.catalog.ulidOf(named);
    return this.catalog.entries.flatMap((entry) =>
      this.catalog
        .stateOf(entry)
        .snapshots.filter(({ hidden }) => !hidden)
        .filter(({ id, name, claimed }) => {
          return named === undefined || id === ulid || (claimed && name === named);
        })
        .map((snapshot) => describeSnapshot(this.#context, entry, snapshot)),
    );
  }

  /** A filter that names nothing matches nothing: it is no error (CSI spec, ListSnapshots). */
  #isOf(volumeId: string, volume: string | undefined): boolean {
    if (volume === undefined) return true;
    const ulid = this.catalog.ulidOf(volume) ?? this.catalog.byName(volume)?.id;
    return ulid !== undefined && this.catalog.publicId(ulid) === volumeId;
  }

  async #recover(entry: Entry): Promise<void> {
    try {
      await this.catalog.open(entry);
    } catch (error) {
      this.#context.environment.logger.error('recovering a volume failed: it stays closed', {
        volumeId: entry.id,
        reason: describeError(error),
      });
    }
  }

  /** Whether the work was done in time; it goes on if not. */
  async #within(limitMs: number, work: Promise<unknown>): Promise<boolean> {
    const stop = new AbortController();
    const late = this.#context.environment.clock.sleep(limitMs, stop.signal).then(
      () => false,
      () => false,
    );
    const inTime = await Promise.race([work.then(() => true), late]);
    stop.abort();
    return inTime;
  }

  readonly #isToken = (token: string): boolean => this.catalog.ulidOf(token) !== undefined;

  /** Never rejects. One that is stuck holds up other interrupted removals, and nothing else. */
  #resumeRemovals(): Promise<void> {
    this.#removals ??= resumeRemovals(this.#context).finally(() => {
      this.#removals = null;
    });
    return this.#removals;
  }

  async #deleteStrayRecords(): Promise<void> {
    if (this.#context.options.shared) return;
    try {
      await deleteStrayRecords(this.#context);
    } catch (error) {
      const { logger } = this.#context.environment;
      logger.warn('deleting stray records failed: the next start tries again', { error });
    }
  }

  async #maintain(): Promise<void> {
    const { clock, logger, space } = this.#context.environment;
    const stopped = (): boolean => this.#stop.signal.aborted;
    while (!stopped()) {
      try {
        await clock.sleep(maintenanceMs, this.#stop.signal);
        if (space.full) await space.restore();
        this.catalog.maintain();
        void this.#resumeRemovals();
      } catch (error) {
        if (stopped()) return;
        logger.warn('maintenance failed', { error, full: hasCode(error, 'OUT_OF_SPACE') });
      }
    }
  }
}
