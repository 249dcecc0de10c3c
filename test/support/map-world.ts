/**
 * A volume's map beside a plain model of it: what every cluster should be, now and in each frozen version. The
 * property test feeds it commands. Two worlds may share a pool and its clock; then each one's failures are its own.
 */
import { VolumeError } from '../../src/volumes/errors.ts';
import { makeObjectId } from '../../src/volumedriver/format/location.ts';
import { PagePool } from '../../src/volumedriver/map/page-pool.ts';
import type { PersistedRoot } from '../../src/volumedriver/map/page.ts';
import {
  VolumeMap,
  type FrozenMap,
  type MappedRun,
  type MapObjectWriter,
} from '../../src/volumedriver/map/volume-map.ts';
import { MapAccounts, type VersionAccount } from './map-accounts.ts';
import { check, checkContent, textOf, type Content, type Reading } from './map-contents.ts';
import { ManualClock, MapBackend, MemoryFile, numbersFrom } from './map-fixture.ts';

interface Version extends VersionAccount {
  readonly frozen: FrozenMap | undefined;
}

const mapWriter = 9;

export class MapWorld {
  readonly clock: ManualClock;
  readonly random: (end: number) => number;
  readonly backend: MapBackend;
  readonly file = new MemoryFile();
  /** Another volume whose pool this one shares. */
  readonly #neighbour: MapWorld | undefined;
  readonly #mapWriter: number;
  #isShared = false;
  readonly #frames: number;
  pool: PagePool;
  map: VolumeMap;
  sizeClusters: number;
  interval = 1;
  content: Content = new Map();
  versions: Version[] = [];
  readonly #accounts: MapAccounts;
  readonly #persists = new Set<Promise<void>>();
  /** Look-ups under way, and when they have been answered. */
  readonly #readings = new Map<Reading, Promise<void>>();
  readonly #problems: unknown[] = [];
  #dataObject = 1;
  #dataIndex = 0;

  constructor(
    seed: number,
    options: { frames: number; sizeClusters: number; delayMs: number; neighbour?: MapWorld },
  ) {
    const { frames, sizeClusters, delayMs, neighbour } = options;
    this.clock = neighbour?.clock ?? new ManualClock();
    this.random = numbersFrom(seed);
    this.#neighbour = neighbour;
    this.#mapWriter = neighbour === undefined ? mapWriter : neighbour.#mapWriter + 1;
    this.backend = new MapBackend(this.clock, this.#mapWriter, this.random);
    this.backend.delayMs = delayMs;
    this.#accounts = new MapAccounts(this.backend);
    this.#frames = frames;
    this.sizeClusters = sizeClusters;
    this.pool = neighbour?.pool ?? this.#newPool();
    this.map = this.#open(null);
    this.#isShared = neighbour !== undefined;
    if (neighbour !== undefined) neighbour.#isShared = true;
  }

  set(cluster: number, wanted: number): void {
    const count = Math.min(wanted, this.sizeClusters - cluster, 4096);
    if (this.#dataIndex + count > 4096) {
      this.#dataObject++;
      this.#dataIndex = 0;
    }
    const objectId = makeObjectId(1, this.#dataObject);
    const checksums = Uint32Array.from({ length: count }, () => this.random(2 ** 32));
    this.map.setRun(cluster, objectId, this.#dataIndex, checksums);
    for (let n = 0; n < count; n++) {
      const entry = { objectId, index: this.#dataIndex + n, checksum: checksums[n] ?? 0 };
      this.#leave(cluster + n);
      this.content.set(cluster + n, entry);
      this.#accounts.born(entry, this.interval);
    }
    this.#dataIndex += count;
    checksums.fill(0);
    this.#noteReadings();
  }

  clear(cluster: number, wanted: number): void {
    const count = Math.min(wanted, this.sizeClusters - cluster);
    this.map.clearRange(cluster, count);
    for (const at of [...this.content.keys()]) {
      if (at < cluster || at >= cluster + count) continue;
      this.#leave(at);
      this.content.delete(at);
    }
    this.#noteReadings();
  }

  grow(clusters: number): void {
    this.sizeClusters += clusters;
    this.map.grow(this.sizeClusters);
  }

  freeze(isSnapshot: boolean): void {
    const frozen = this.map.freeze();
    const { interval } = this;
    this.versions.push({
      frozen,
      root: undefined,
      content: new Map(this.content),
      interval,
      isSnapshot,
    });
    if (isSnapshot) this.map.setInterval(++this.interval);
  }

  /** Lets go of one version, or of its frozen map when it has been persisted. */
  release(choice: number): void {
    const at = choice % Math.max(1, this.versions.length);
    const version = this.versions[at];
    if (version === undefined) return;
    version.frozen?.release();
    if (version.root === undefined || version.frozen === undefined) this.versions.splice(at, 1);
    else this.versions[at] = { ...version, frozen: undefined };
  }

  /** Starts to persist some versions; it ends while other commands go on. */
  persist(mask: number): void {
    const chosen = this.versions.filter(
      (version, n) => version.frozen !== undefined && ((mask >> n) & 1) === 1,
    );
    const targets = chosen.flatMap(({ frozen }) => (frozen === undefined ? [] : [frozen]));
    const run = this.#persist(targets).then((roots) => {
      roots?.forEach((root, n) => {
        const at = this.versions.findIndex(({ frozen }) => frozen === targets[n]);
        const version = this.versions[at];
        if (version !== undefined) this.versions[at] = { ...version, root };
      });
    });
    const kept = run.catch((error: unknown) => void this.#problems.push(error));
    this.#persists.add(kept);
    void kept.then(() => this.#persists.delete(kept));
  }

  async rollback(choice: number): Promise<void> {
    const snapshots = this.versions.filter(({ isSnapshot }) => isSnapshot);
    const version = snapshots[choice % Math.max(1, snapshots.length)];
    if (version === undefined) return;
    this.backend.failure = undefined;
    if (version.frozen !== undefined) await this.clock.finish(version.frozen.applied);
    const root = version.root === undefined || choice % 2 === 0 ? version.frozen : version.root;
    this.map.reset(root ?? version.root ?? null, this.sizeClusters, version.interval);
    this.#accounts.rollBack(version.interval + 1, this.interval);
    this.map.setInterval(++this.interval);
    this.content = new Map(version.content);
    this.versions = this.versions.filter((other) => {
      if (other.interval <= version.interval && (other.isSnapshot || other === version))
        return true;
      other.frozen?.release();
      return false;
    });
    this.#noteReadings();
    // A look-up waits for the rollback; afterwards nothing that it made void may be reported.
    const last = this.interval - 1;
    await this.clock.finish(this.map.lookup(0, 1));
    this.#accounts.rolledBack(version.interval + 1, last);
  }

  /** Looks up and checks, now or when the answer comes. */
  read(cluster: number, wanted: number): void {
    const count = Math.min(wanted, this.sizeClusters - cluster);
    const reading: Reading = { cluster, accepted: [] };
    for (let n = 0; n < count; n++) reading.accepted.push(new Set());
    this.#note(reading);
    const answer = this.map.lookup(cluster, count);
    if (Array.isArray(answer)) {
      check(reading, answer);
      return;
    }
    const done = this.#answered(reading, answer).finally(() => this.#readings.delete(reading));
    this.#readings.set(reading, done);
  }

  async #answered(reading: Reading, answer: Promise<MappedRun[]>): Promise<void> {
    try {
      check(reading, await answer);
    } catch (error) {
      const isAway = error instanceof VolumeError && error.code === 'UNAVAILABLE';
      if (!isAway) this.#problems.push(error);
    }
  }

  async readVersion(choice: number, cluster: number, count: number): Promise<void> {
    const version = this.versions[choice % Math.max(1, this.versions.length)];
    if (version?.frozen === undefined) return;
    this.backend.failure = undefined;
    const runs = await this.clock.finish(version.frozen.lookup(cluster, count));
    checkContent(version.content, cluster, runs);
  }

  /** Waits until nothing is under way, then checks everything. */
  async quiet(): Promise<void> {
    this.backend.failure = undefined;
    this.backend.writeFailure = undefined;
    await this.clock.finish(this.map.drained());
    await this.clock.finish(Promise.all(this.#persists));
    const head = this.map.freeze();
    const live = this.versions.filter(({ frozen }) => frozen !== undefined);
    const targets = [head, ...live.flatMap(({ frozen }) => frozen ?? [])];
    const roots = await this.clock.finish(this.#persist(targets));
    head.release();
    await this.clock.finish(this.map.drained());
    await this.#rest();
    for (const problem of this.#problems) throw problem;
    if (roots === undefined) throw new Error('persisting failed without a reason');
    live.forEach((version, n) => {
      this.versions[this.versions.indexOf(version)] = { ...version, root: roots[n + 1] ?? null };
    });
    this.#accounts.check(roots[0] ?? null, this.content, this.versions);
    const runs = await this.clock.finish(this.map.lookup(0, this.sizeClusters));
    checkContent(this.content, 0, runs);
  }

  /** A restart: only what was persisted counts. */
  async reopen(withNewPool: boolean): Promise<void> {
    await this.quiet();
    const frozen = this.map.freeze();
    const [root] = (await this.clock.finish(this.#persist([frozen]))) ?? [];
    this.versions = this.versions.map((version) => {
      version.frozen?.release();
      return { ...version, frozen: undefined };
    });
    frozen.release();
    this.map.close();
    await this.#rest();
    this.#checkNothingHeld();
    if (withNewPool && !this.#isShared) {
      this.pool.close();
      this.pool = this.#newPool();
    }
    this.map = this.#open(root ?? null);
  }

  async close(): Promise<void> {
    await this.quiet();
    for (const { frozen } of this.versions) frozen?.release();
    this.map.close();
    await this.#rest();
    if (this.#neighbour !== undefined) this.#neighbour.#isShared = false;
    this.#checkNothingHeld();
    if (!this.#isShared) this.pool.close();
  }

  /** Lets everything come to its end. A neighbour whose backend fails never comes to one. */
  async #rest(): Promise<void> {
    if (!this.#isShared) await this.clock.rest();
    else await this.clock.finish(Promise.all(this.#readings.values()));
  }

  #checkNothingHeld(): void {
    if (this.#isShared) return;
    const { count } = this.pool.dirty;
    if (count !== 0) throw new Error(`${count} dirty pages are left over`);
  }

  #newPool(): PagePool {
    return new PagePool({
      memoryBytes: this.#frames * 4096,
      openSpill: () => this.file,
      onLeak: (error) => void this.#problems.push(error),
    });
  }

  #open(root: PersistedRoot | null): VolumeMap {
    return new VolumeMap({
      pool: this.pool,
      source: this.backend,
      sizeClusters: this.sizeClusters,
      root,
      interval: this.interval,
      clock: this.clock,
      // Turns so short that commands come between all steps of the background work.
      pagesPerTurn: 3,
      queueClustersMax: 5000,
      onRelease: (objectId, index, since) => {
        try {
          this.#accounts.released(objectId, index, since);
        } catch (error) {
          this.#problems.push(error);
        }
      },
      onFailure: (error) => void this.#problems.push(error),
      onLeak: (error) => void this.#problems.push(error),
    });
  }

  /** Undefined when the backend refuses to write. */
  async #persist(targets: FrozenMap[]): Promise<(PersistedRoot | null)[] | undefined> {
    const { backend } = this;
    const allocated: number[] = [];
    const births = new Map<number, number>();
    const writer: MapObjectWriter = {
      allocateObject: (birth) => {
        const objectId = backend.allocateObject();
        allocated.push(objectId);
        births.set(objectId, birth);
        return objectId;
      },
      writeObject: async (objectId, birth, pages) => {
        if (births.get(objectId) !== birth) throw new Error('the birth is not as allocated');
        await backend.writeObject(objectId, birth, pages);
      },
    };
    try {
      return await this.map.persist(targets, writer);
    } catch (error) {
      for (const objectId of allocated) this.#accounts.orphan(objectId);
      if (error instanceof VolumeError && error.code === 'UNAVAILABLE') return undefined;
      throw error;
    }
  }

  #leave(cluster: number): void {
    const entry = this.content.get(cluster);
    if (entry !== undefined) this.#accounts.left(entry, this.interval);
  }

  #note(reading: Reading): void {
    reading.accepted.forEach((accepted, n) => {
      accepted.add(textOf(this.content.get(reading.cluster + n)));
    });
  }

  #noteReadings(): void {
    for (const reading of this.#readings.keys()) this.#note(reading);
  }
}
