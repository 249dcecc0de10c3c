/**
 * A volume's map beside a plain model of it: what every cluster should be, now and in each frozen version, and which
 * locations must have been reported as released. The property test feeds it commands.
 */
import { VolumeError } from '../../src/volumes/errors.ts';
import { indexOf, makeObjectId, objectIdOf } from '../../src/volumedriver/format/location.ts';
import { PagePool } from '../../src/volumedriver/map/page-pool.ts';
import type { PersistedRoot } from '../../src/volumedriver/map/page.ts';
import {
  VolumeMap,
  type FrozenMap,
  type MappedRun,
  type MapObjectWriter,
} from '../../src/volumedriver/map/volume-map.ts';
import { ManualClock, MapBackend, MemoryFile, numbersFrom } from './map-fixture.ts';

interface Entry {
  readonly objectId: number;
  readonly index: number;
  readonly checksum: number;
}
type Content = Map<number, Entry>;

interface Version {
  readonly frozen: FrozenMap | undefined;
  readonly root: PersistedRoot | null | undefined;
  readonly content: Content;
  readonly interval: number;
  readonly isSnapshot: boolean;
}

interface Reading {
  readonly cluster: number;
  /** What each cluster was at the call or has been since. */
  readonly accepted: Set<string>[];
  done: boolean;
}

const mapWriter = 9;
const hole = 'hole';

export class MapWorld {
  readonly clock = new ManualClock();
  readonly random: (end: number) => number;
  readonly backend: MapBackend;
  readonly file = new MemoryFile();
  readonly #frames: number;
  pool: PagePool;
  map: VolumeMap;
  sizeClusters: number;
  interval = 1;
  content: Content = new Map();
  versions: Version[] = [];
  /** Every release so far: location -> intervals. */
  readonly #released = new Map<string, number[]>();
  readonly #expected = new Map<string, number>();
  /** Intervals undone by rollbacks, both ends included. */
  readonly #void: [number, number][] = [];
  readonly #clusterBirths = new Map<string, number>();
  readonly #orphans = new Set<number>();
  readonly #persists = new Set<Promise<void>>();
  readonly #readings = new Set<Reading>();
  readonly #problems: unknown[] = [];
  #dataObject = 1;
  #dataIndex = 0;

  constructor(seed: number, frames: number, sizeClusters: number) {
    this.random = numbersFrom(seed);
    this.backend = new MapBackend(this.clock, mapWriter, this.random);
    this.#frames = frames;
    this.sizeClusters = sizeClusters;
    this.pool = this.#newPool();
    this.map = this.#open(null);
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
      this.#clusterBirths.set(keyOf(entry), this.interval);
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
    this.#void.push([version.interval + 1, this.interval]);
    this.map.setInterval(++this.interval);
    this.content = new Map(version.content);
    this.versions = this.versions.filter((other) => {
      if (other.interval <= version.interval && (other.isSnapshot || other === version))
        return true;
      other.frozen?.release();
      return false;
    });
    this.#noteReadings();
  }

  /** Looks up and checks, now or when the answer comes. */
  read(cluster: number, wanted: number): void {
    const count = Math.min(wanted, this.sizeClusters - cluster);
    const reading: Reading = { cluster, accepted: [], done: false };
    for (let n = 0; n < count; n++) reading.accepted.push(new Set());
    this.#note(reading);
    const answer = this.map.lookup(cluster, count);
    if (Array.isArray(answer)) {
      check(reading, answer);
      return;
    }
    this.#readings.add(reading);
    void answer.then(
      (runs) => {
        this.#readings.delete(reading);
        try {
          check(reading, runs);
        } catch (error) {
          this.#problems.push(error);
        }
      },
      (error: unknown) => {
        this.#readings.delete(reading);
        if (!(error instanceof VolumeError) || error.code !== 'UNAVAILABLE') {
          this.#problems.push(error);
        }
      },
    );
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
    await this.clock.rest();
    for (const problem of this.#problems) throw problem;
    if (roots === undefined) throw new Error('persisting failed without a reason');
    live.forEach((version, n) => {
      this.versions[this.versions.indexOf(version)] = { ...version, root: roots[n + 1] ?? null };
    });
    await this.#checkAccounts(roots[0] ?? null);
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
    await this.clock.rest();
    this.#checkNothingHeld();
    if (withNewPool) {
      this.pool.close();
      this.pool = this.#newPool();
    }
    this.map = this.#open(root ?? null);
  }

  async close(): Promise<void> {
    await this.quiet();
    for (const { frozen } of this.versions) frozen?.release();
    this.map.close();
    await this.clock.rest();
    this.#checkNothingHeld();
    this.pool.close();
  }

  #checkNothingHeld(): void {
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
        const key = keyOf({ objectId, index });
        if (this.#isPage(objectId) && !this.backend.objects.has(objectId)) {
          this.#problems.push(new Error(`page ${key} was released before it was stored`));
        }
        this.#released.set(key, [...(this.#released.get(key) ?? []), since]);
      },
      onFailure: (error) => void this.#problems.push(error),
      onLeak: (error) => void this.#problems.push(error),
    });
  }

  #isPage(objectId: number): boolean {
    return objectId >= makeObjectId(mapWriter, 0);
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
      for (const objectId of allocated) this.#orphans.add(objectId);
      if (error instanceof VolumeError && error.code === 'UNAVAILABLE') return undefined;
      throw error;
    }
  }

  #leave(cluster: number): void {
    const entry = this.content.get(cluster);
    if (entry !== undefined) this.#expected.set(keyOf(entry), this.interval);
  }

  #note(reading: Reading): void {
    reading.accepted.forEach((accepted, n) => {
      accepted.add(textOf(this.content.get(reading.cluster + n)));
    });
  }

  #noteReadings(): void {
    for (const reading of this.#readings) this.#note(reading);
  }

  #isVoid(interval: number): boolean {
    return this.#void.some(([first, last]) => interval >= first && interval <= last);
  }

  async #checkAccounts(root: PersistedRoot | null): Promise<void> {
    const head = this.#reachable(root);
    for (const [cluster, entry] of this.content) {
      if (!head.clusters.has(keyOf(entry)))
        throw new Error(`cluster ${cluster} is not in the head`);
    }
    if (head.clusters.size !== this.content.size) throw new Error('the head has too much');
    for (const version of this.versions) {
      if (version.root !== undefined) this.#checkVersion(version, version.root);
    }
    for (const [key, birth] of this.#clusterBirths) {
      if (!this.#isVoid(birth)) this.#checkReleases(key, head.clusters.has(key));
    }
    for (const [objectId, { birth, pages }] of this.backend.objects) {
      if (this.#orphans.has(objectId) || this.#isVoid(birth)) continue;
      pages.forEach((_, index) => {
        const key = keyOf({ objectId, index });
        this.#checkReleases(key, head.pages.has(key));
      });
    }
    const runs = await this.clock.finish(this.map.lookup(0, this.sizeClusters));
    checkContent(this.content, 0, runs);
  }

  /** A location that is not in the head any more was released once, and since the right interval. */
  #checkReleases(key: string, isInHead: boolean): void {
    const released = (this.#released.get(key) ?? []).filter((since) => !this.#isVoid(since));
    if (released.length !== (isInHead ? 0 : 1)) {
      throw new Error(`${key} was released [${released.join()}], in the head: ${String(isInHead)}`);
    }
    const expected = this.#expected.get(key);
    if (!isInHead && expected !== undefined && released[0] !== expected) {
      throw new Error(`${key} was released since ${released.join()}, not ${expected}`);
    }
  }

  /** A snapshot of interval i holds exactly what it should, all of it born by i and released later or not at all. */
  #checkVersion(version: Version, root: PersistedRoot | null): void {
    const { clusters, pages } = this.#reachable(root);
    if (clusters.size !== version.content.size) throw new Error('a version has other clusters');
    for (const entry of version.content.values()) {
      if (!clusters.has(keyOf(entry))) throw new Error('a version lacks a cluster');
    }
    if (!version.isSnapshot) return;
    for (const key of [...clusters, ...pages.keys()]) {
      const birth = pages.get(key) ?? this.#clusterBirths.get(key) ?? 0;
      const since = (this.#released.get(key) ?? []).filter((s) => !this.#isVoid(s));
      const end = since[0] ?? Infinity;
      if (birth > version.interval || end <= version.interval) {
        throw new Error(`${key} [${birth}, ${end}) is in the snapshot of ${version.interval}`);
      }
    }
  }

  /** Reads stored pages with a decoder of its own. */
  #reachable(root: PersistedRoot | null): { clusters: Set<string>; pages: Map<string, number> } {
    const clusters = new Set<string>();
    const pages = new Map<string, number>();
    const visit = (objectId: number, index: number, level: number): void => {
      const key = keyOf({ objectId, index });
      const object = this.backend.objects.get(objectId);
      const page = object?.pages[index];
      if (object === undefined || page === undefined || this.#orphans.has(objectId)) {
        throw new Error(`page ${key} is not stored`);
      }
      pages.set(key, object.birth);
      const view = new DataView(page.buffer, page.byteOffset);
      for (let at = 0; at < page.length; at += 16) {
        const writer = view.getUint32(at + 4, true);
        if (writer === 0) continue;
        const low = view.getUint32(at, true);
        const location = { objectId: objectIdOf(writer, low), index: indexOf(low) };
        if (level > 0) visit(location.objectId, location.index, level - 1);
        else clusters.add(keyOf(location));
      }
    };
    if (root !== null) visit(root.objectId, root.index, root.level);
    return { clusters, pages };
  }
}

function keyOf(location: { objectId: number; index: number }): string {
  return `${location.objectId}/${location.index}`;
}

function textOf(entry: Entry | undefined): string {
  return entry === undefined ? hole : `${keyOf(entry)} ${entry.checksum}`;
}

/** One text per cluster; throws when runs are not maximal. */
function* clustersOf(runs: MappedRun[]): Generator<string> {
  let last: MappedRun | undefined;
  for (const run of runs) {
    const isSplit =
      last !== undefined &&
      last.objectId === run.objectId &&
      (run.objectId === 0 || last.index + last.clusterCount === run.index);
    if (isSplit || run.clusterCount === 0) throw new Error('runs are not maximal');
    if (run.checksums.length !== (run.objectId === 0 ? 0 : run.clusterCount)) {
      throw new Error('a run has other checksums than clusters');
    }
    for (let n = 0; n < run.clusterCount; n++) {
      const { objectId, index, checksums } = run;
      yield objectId === 0
        ? hole
        : textOf({ objectId, index: index + n, checksum: checksums[n] ?? 0 });
    }
    last = run;
  }
}

function check(reading: Reading, runs: MappedRun[]): void {
  let n = 0;
  for (const text of clustersOf(runs)) {
    if (reading.accepted[n]?.has(text) !== true) {
      throw new Error(`cluster ${reading.cluster + n} is ${text}`);
    }
    n++;
  }
  if (n !== reading.accepted.length) throw new Error('an answer has another length');
}

function checkContent(content: Content, first: number, runs: MappedRun[]): void {
  let cluster = first;
  for (const text of clustersOf(runs)) {
    if (text !== textOf(content.get(cluster))) throw new Error(`cluster ${cluster} is ${text}`);
    cluster++;
  }
}
