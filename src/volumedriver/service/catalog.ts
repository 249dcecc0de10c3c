/**
 * The volumes of a backend as this volumedriver knows them: the state of closed ones, the open ones themselves, and
 * which operation is under way on each. It is filled from the backend at start; on a backend that only this
 * volumedriver may use, it then is complete.
 */
import type { Clock } from '../../base/clock.ts';
import { VolumeError, hasCode, toVolumeError } from '../../volumes/errors.ts';
import type { SnapshotRef } from '../../volumes/volume-service.ts';
import { volumeDirectory, type Environment } from '../environment.ts';
import { decodeAccounts } from '../format/accounts-blob.ts';
import type { SnapshotState, VolumeState } from '../format/control.ts';
import { keys } from '../keys.ts';
import { loadHistory, replayedTlogs } from '../recovery/history.ts';
import { openVolume } from '../recovery/open-volume.ts';
import { foldRecord } from '../state.ts';
import type { Volume } from '../volume.ts';

/** An open volume without clients is closed after so long without a call. */
const idleCloseMs = 60_000;
/** How long a shutdown waits for the backend to take what is left. */
const closeMsMax = 15_000;

export interface Entry {
  readonly id: string;
  volume: Volume | null;
  opening: Promise<Volume> | null;
  /** Settles when a close under way is over; never rejects. */
  closing: Promise<void> | null;
  /** While closed: what the backend says. */
  closedState: VolumeState;
  closedUsedBytes: number;
  usedAtMs: number;
}

export class Catalog {
  readonly #environment: Environment;
  readonly #clock: Clock;
  readonly #backendId: string;
  readonly #entries = new Map<string, Entry>();
  readonly #damaged = new Map<string, VolumeError>();
  /** Volumes whose end is on the local disk only, and could not be read yet: their state may be older than the truth. */
  readonly #unrecovered = new Map<string, VolumeError | null>();
  readonly #busy = new Set<string>();
  /** Volumes whose maintenance is under way. */
  readonly #maintained = new Set<Entry>();
  #closing = false;

  constructor(environment: Environment, backendId: string) {
    this.#environment = environment;
    this.#clock = environment.clock;
    this.#backendId = backendId;
  }

  get entries(): readonly Entry[] {
    return [...this.#entries.values()];
  }

  /** BACKENDID.ULID. */
  publicId(ulid: string): string {
    return `${this.#backendId}.${ulid}`;
  }

  /** The ULID of a public id of this backend, or of a bare one; undefined for anything else. */
  ulidOf(id: string): string | undefined {
    const prefix = `${this.#backendId}.`;
    const ulid = id.startsWith(prefix) ? id.slice(prefix.length) : id;
    return /^[0-9A-HJKMNP-TV-Z]{26}$/.test(ulid) ? ulid : undefined;
  }

  /** Reads every volume's state. Returns the volumes that the local disk has something of: they need recovery. */
  async load(): Promise<Entry[]> {
    const { disk } = this.#environment;
    const unclean: Entry[] = [];
    for (const id of await this.#listIds()) {
      const closed = await this.#readState(id);
      if (closed === undefined) continue;
      const entry = this.add(id, closed.state, closed.usedBytes);
      if (disk.list(volumeDirectory(this.#environment, id)).length === 0) continue;
      unclean.push(entry);
      this.#unrecovered.set(id, null);
    }
    return unclean;
  }

  /** One damaged volume must not keep the others from being served. */
  async #readState(id: string): Promise<ClosedVolume | undefined> {
    try {
      return await readClosed(this.#environment.store, id);
    } catch (error) {
      // INTERNAL: the device can't read one of its files.
      if (!hasCode(error, 'CORRUPT') && !hasCode(error, 'INTERNAL')) throw error;
      this.#environment.logger.error('a volume is damaged', { volumeId: id, error });
      this.#damaged.set(id, toVolumeError(error, 'reading a volume'));
      return undefined;
    }
  }

  isDamaged(id: string): boolean {
    return this.#damaged.has(id);
  }

  /** CORRUPT when the volume exists but can't be read. */
  assertIntact(id: string): void {
    const damage = this.#damaged.get(id);
    if (damage !== undefined) throw damage;
  }

  async #listIds(): Promise<string[]> {
    const ids: string[] = [];
    let startAfter: string = keys.volumePrefix;
    for (;;) {
      const [first] = await this.#environment.store.list(keys.volumePrefix, {
        startAfter,
        limit: 1,
      });
      const id = first?.key.slice(keys.volumePrefix.length).split('/')[0];
      if (id === undefined) return ids;
      ids.push(id);
      startAfter = `${keys.volumePrefix}${id}/~`;
    }
  }

  add(id: string, state: VolumeState, usedBytes: number): Entry {
    const usedAtMs = this.#clock.monotonicMs();
    const entry: Entry = {
      id,
      volume: null,
      opening: null,
      closing: null,
      closedState: state,
      closedUsedBytes: usedBytes,
      usedAtMs,
    };
    this.#entries.set(id, entry);
    return entry;
  }

  /** Adds a volume that the backend has. VOLUME_NOT_FOUND, CORRUPT. */
  async addExisting(id: string): Promise<Entry> {
    const closed = await readClosed(this.#environment.store, id);
    const known = this.#entries.get(id);
    if (known !== undefined) return known;
    if (closed !== undefined) return this.add(id, closed.state, closed.usedBytes);
    throw new VolumeError('VOLUME_NOT_FOUND', `reading volume ${id}: it does not exist`);
  }

  forget(entry: Entry): void {
    this.#entries.delete(entry.id);
    this.#unrecovered.delete(entry.id);
  }

  stateOf(entry: Entry): VolumeState {
    return entry.volume?.state ?? entry.closedState;
  }

  byId(id: string): Entry | undefined {
    return this.#entries.get(id);
  }

  byName(name: string): Entry | undefined {
    return this.entries.find((entry) => {
      const state = this.stateOf(entry);
      return state.name === name && !state.removed;
    });
  }

  /**
   * A volume that has not been removed, by id or name. VOLUME_NOT_FOUND; OPERATION_PENDING while one of that name is
   * being made: whoever took it for missing would make it elsewhere.
   */
  find(volume: string): Entry {
    const ulid = this.ulidOf(volume);
    if (ulid !== undefined) this.assertIntact(ulid);
    const entry = (ulid === undefined ? undefined : this.#entries.get(ulid)) ?? this.byName(volume);
    if (entry !== undefined && !this.stateOf(entry).removed) return entry;
    this.#assertFree(nameLock(volume));
    throw new VolumeError(
      'VOLUME_NOT_FOUND',
      `finding volume ${JSON.stringify(volume)}: it does not exist`,
    );
  }

  /**
   * A snapshot that has not been removed, wherever its volume is. SNAPSHOT_NOT_FOUND, VOLUME_NOT_FOUND; UNAVAILABLE
   * while it may be in what is not recovered: nobody may take it for removed.
   */
  findSnapshot(ref: SnapshotRef): { entry: Entry; snapshot: SnapshotState } {
    const entries = ref.volume === undefined ? this.entries : [this.find(ref.volume)];
    const ulid = this.ulidOf(ref.snapshot);
    for (const entry of entries) {
      for (const snapshot of this.stateOf(entry).snapshots) {
        const named = ref.volume !== undefined && snapshot.name === ref.snapshot;
        if (!snapshot.hidden && (snapshot.id === ulid || named)) return { entry, snapshot };
      }
    }
    for (const entry of entries)
      this.assertRecovered(entry, `finding snapshot ${JSON.stringify(ref.snapshot)}`);
    const where = ref.volume === undefined ? '' : ` of volume ${JSON.stringify(ref.volume)}`;
    throw new VolumeError(
      'SNAPSHOT_NOT_FOUND',
      `finding snapshot ${JSON.stringify(ref.snapshot)}${where}: it does not exist`,
    );
  }

  /** The local disk may have more of it than the backend. */
  isUnrecovered(entry: Entry): boolean {
    return this.#unrecovered.has(entry.id);
  }

  /** UNAVAILABLE while what is known of it may be older than the truth. `what` is what was asked. */
  assertRecovered(entry: Entry, what: string): void {
    const failure = this.#unrecovered.get(entry.id);
    if (failure === undefined) return;
    throw new VolumeError(
      'UNAVAILABLE',
      `${what}: volume ${JSON.stringify(this.stateOf(entry).name)} is not recovered yet`,
      failure === null ? {} : { cause: failure },
    );
  }

  /** The open volume; opens it, or opens it again after it halted. */
  async open(entry: Entry): Promise<Volume> {
    if (this.#closing)
      throw new VolumeError('SHUTTING_DOWN', 'opening a volume: the volumedriver is shutting down');
    entry.usedAtMs = this.#clock.monotonicMs();
    if (entry.closing !== null) await entry.closing;
    if (entry.volume?.running === true) return entry.volume;
    entry.opening ??= this.#reopen(entry);
    return await entry.opening;
  }

  async #reopen(entry: Entry): Promise<Volume> {
    try {
      if (entry.volume !== null) {
        entry.closedState = entry.volume.state;
        this.#unrecovered.set(entry.id, null);
        await entry.volume.abandon();
        entry.volume = null;
      }
      const volume = await openVolume(this.#environment, entry.id);
      entry.volume = volume;
      this.#unrecovered.delete(entry.id);
      volume.sweep().catch((error: unknown) => {
        this.#environment.logger.warn('sweeping what an earlier session left failed', {
          volumeId: entry.id,
          error,
        });
      });
      return volume;
    } catch (error) {
      const known = error instanceof VolumeError && this.#unrecovered.has(entry.id);
      if (known) this.#unrecovered.set(entry.id, error);
      throw error;
    } finally {
      entry.opening = null;
    }
  }

  /** Runs an operation that no other on the same keys may overlap. OPERATION_PENDING. */
  async exclusively<Result>(
    lockKeys: readonly string[],
    operation: () => Promise<Result>,
  ): Promise<Result> {
    for (const key of lockKeys) this.#assertFree(key);
    for (const key of lockKeys) this.#busy.add(key);
    try {
      return await operation();
    } finally {
      for (const key of lockKeys) this.#busy.delete(key);
    }
  }

  #assertFree(key: string): void {
    if (!this.#busy.has(key)) return;
    throw new VolumeError(
      'OPERATION_PENDING',
      `another operation on ${key} is under way: try again`,
    );
  }

  /**
   * Begins checkpoints that are due, closes volumes that nobody uses, and opens again those whose end the backend lacks.
   * One that is stuck holds up no other.
   */
  maintain(): void {
    for (const entry of this.entries) {
      if (entry.opening !== null || this.#maintained.has(entry)) continue;
      const work = this.#maintenanceOf(entry);
      if (work === undefined) continue;
      this.#maintained.add(entry);
      work
        .catch((error: unknown) => {
          const { logger } = this.#environment;
          logger.warn('maintaining a volume failed', { volumeId: entry.id, error });
        })
        .finally(() => this.#maintained.delete(entry));
    }
  }

  #maintenanceOf(entry: Entry): Promise<unknown> | undefined {
    const { volume } = entry;
    const idle = this.#clock.monotonicMs() - entry.usedAtMs > idleCloseMs;
    if (volume === null) {
      return idle && this.isUnrecovered(entry) ? this.open(entry) : undefined;
    }
    const unused = idle && volume.clients.size === 0 && volume.halted === null;
    return unused ? this.close(entry) : volume.maintain();
  }

  async close(entry: Entry): Promise<void> {
    await this.exclusively([entry.id], async () => {
      const { volume } = entry;
      if (volume === null) return;
      const closed = volume.close();
      entry.closing = closed.catch(() => undefined); // the caller of this close learns of it
      try {
        await closed;
      } finally {
        entry.closing = null;
        if (this.#hasLog(entry)) this.#unrecovered.set(entry.id, null);
      }
      entry.closedState = volume.state;
      entry.closedUsedBytes = volume.usedBytes;
      entry.volume = null;
    });
  }

  /** A close that failed, or that a late request overtook, leaves a log: the backend does not have everything. */
  #hasLog({ id }: Entry): boolean {
    const { disk } = this.#environment;
    const names = disk.list(volumeDirectory(this.#environment, id));
    return names.some((name) => name.startsWith('log-'));
  }

  /**
   * Closes every volume, each whatever happens to the others. What can't be stored now, or not within the limit, stays
   * on the local disk for the next start.
   */
  async closeAll(): Promise<void> {
    this.#closing = true;
    const stop = new AbortController();
    const limit = this.#clock.sleep(closeMsMax, stop.signal).then(
      () => 'late' as const,
      () => 'stopped' as const,
    );
    await Promise.all(this.entries.map((entry) => this.#closeWithin(entry, limit)));
    stop.abort();
  }

  async #closeWithin(entry: Entry, limit: Promise<'late' | 'stopped'>): Promise<void> {
    const left = (error: unknown): void => {
      const { logger } = this.#environment;
      logger.warn('closing a volume left its end on the local disk', { volumeId: entry.id, error });
    };
    const close = async (): Promise<void> => {
      await entry.opening;
      await entry.volume?.close();
    };
    const closed = close().catch(left);
    if ((await Promise.race([closed, limit])) !== 'late') return;
    left(new VolumeError('UNAVAILABLE', `the backend did not take it within ${closeMsMax} ms`));
    // Also ends the close under way; an opening that is stuck keeps what it found.
    await entry.volume?.abandon();
  }
}

/** What is locked while a volume of this name is made or removed. */
export function nameLock(name: string): string {
  return `the name ${name}`;
}

interface ClosedVolume {
  state: VolumeState;
  usedBytes: number;
}

/** A closed volume's state, without its map; undefined when it has no slot. */
async function readClosed(
  store: Environment['store'],
  id: string,
): Promise<ClosedVolume | undefined> {
  const history = await loadHistory(store, id);
  if (history === undefined) return undefined;
  // From now on the volume is said to be there as its slots say.
  await store.confirm?.(keys.slot(id, history.lastSlot));
  let state = history.checkpoint?.state ?? null;
  for await (const tlog of replayedTlogs(store, history)) {
    for (const { record } of tlog.records) state = foldRecord(state, record);
  }
  if (state === null) return undefined;
  const accounts = history.checkpoint?.accounts ?? null;
  const bytes = accounts === null ? undefined : await store.get(accounts);
  const numbers = state.snapshots.map(({ number }) => number);
  return {
    state,
    usedBytes: bytes === undefined ? 0 : decodeAccounts(bytes, numbers).usedBytes,
  };
}
