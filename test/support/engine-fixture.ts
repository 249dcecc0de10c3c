/** An engine on a simulated disk with its file store, which tests can crash, restart and ask about. */
import type { Clock } from '../../src/base/clock.ts';
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import type { BlockDevice } from '../../src/volumes/block-device.ts';
import { openEngine, type Engine, type EngineOptions } from '../../src/volumedriver/engine.ts';
import { Volumedriver } from '../../src/volumedriver/service/volumedriver.ts';
import { VolumeExports } from '../../src/volumedriver/service/exports.ts';
import { FileStore } from '../../src/volumedriver/store/file-store.ts';
import type { ObjectStore } from '../../src/volumedriver/store/object-store.ts';
import { SeededRandom } from './seeded-random.ts';
import { SimulatedDisk } from './simulated-disk.ts';
import type { Operation } from './simulated-operations.ts';

export interface FixtureOptions {
  seed?: number;
  logger?: Logger;
  disk?: SimulatedDisk;
  engine?: Partial<EngineOptions>;
  wrapStore?: (store: ObjectStore) => ObjectStore;
  /** The backend of one life, instead of a FileStore on the simulated disk. */
  makeStore?: (disk: SimulatedDisk) => ObjectStore;
  clock?: StillClock;
  /** Counts the restarts, so that each has randomness of its own. */
  life?: number;
}

/** Time that passes only in sleeps, which end when the test lets them. */
export class StillClock implements Clock {
  #now = 1_700_000_000_000;
  readonly #sleepers = new Set<() => void>();

  now(): number {
    return this.#now++;
  }

  monotonicMs(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(new Error('aborted'));
        return;
      }
      if (ms <= 0) {
        setImmediate(resolve);
        return;
      }
      const wake = (): void => {
        this.#sleepers.delete(wake);
        this.#now += ms;
        resolve();
      };
      this.#sleepers.add(wake);
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(wake);
        reject(new Error('aborted'));
      });
    });
  }

  /** Ends every sleep that is under way. */
  wakeAll(): void {
    for (const wake of [...this.#sleepers]) wake();
  }
}

export class EngineFixture {
  readonly disk: SimulatedDisk;
  readonly clock: StillClock;
  readonly engine: Engine;
  readonly store: ObjectStore;
  readonly service: Volumedriver;
  readonly exports: VolumeExports;
  readonly #options: FixtureOptions;
  /** What the next process finds, once this disk has crashed. */
  #successor: SimulatedDisk | null = null;

  private constructor(
    options: FixtureOptions,
    parts: { disk: SimulatedDisk; clock: StillClock; engine: Engine },
  ) {
    this.#options = options;
    this.disk = parts.disk;
    this.clock = parts.clock;
    this.engine = parts.engine;
    this.store = parts.engine.environment.store;
    this.service = new Volumedriver(parts.engine.environment, {
      version: 'test',
      nodeId: 'node-1',
      backendId: parts.engine.backendId,
      shared: false,
      defaultFlushTo: 'local',
      exportUri: (name) => `nbd+unix:///${encodeURIComponent(name)}?socket=/none`,
    });
    this.exports = new VolumeExports(this.service.catalog, parts.engine.environment.reader);
  }

  static async open(options: FixtureOptions = {}): Promise<EngineFixture> {
    const life = options.life ?? 0;
    const seed = options.seed ?? 1;
    const disk = options.disk ?? new SimulatedDisk({ seed });
    const random = new SeededRandom(seed * 1000 + life);
    const clock = options.clock ?? new StillClock();
    disk.makeDirectory('/data');
    await disk.syncDirectory('/');
    const ownStore =
      options.makeStore?.(disk) ?? (await FileStore.open({ disk, root: '/data/store', random }));
    const store = options.wrapStore?.(ownStore) ?? ownStore;
    const engine = await openEngine({
      disk,
      store,
      clock,
      random,
      logger: options.logger ?? silentLogger,
      dataDirectory: '/data',
      mapMemoryBytes: 64 * 4096,
      readCacheBytes: 2 ** 20,
      reserveBytes: 65_536,
      ...options.engine,
    });
    const fixture = new EngineFixture(options, { disk, clock, engine });
    await fixture.service.start();
    return fixture;
  }

  async createDevice(
    name: string,
    sizeBytes: number,
  ): Promise<{ device: BlockDevice; id: string }> {
    const volume = await this.service.createVolume({ name, sizeBytes });
    const id = volume.id.slice(volume.id.indexOf('.') + 1);
    return { device: await this.exports.open(id), id };
  }

  async openDevice(exportName: string): Promise<BlockDevice> {
    return await this.exports.open(exportName);
  }

  /** The process or the machine goes, and comes back. */
  async crash(kind: 'process' | 'power'): Promise<EngineFixture> {
    this.crashNow(kind);
    return await this.next();
  }

  /** The process or the machine goes; nothing of it is heard again. */
  crashNow(kind: 'process' | 'power'): void {
    this.#successor ??= this.disk.crash(kind);
  }

  /** Crashes at the n-th operation from now that `matches`; resolves once that has happened. */
  crashAt(
    kind: 'process' | 'power',
    nth: number,
    matches: (operation: Operation) => boolean = () => true,
  ): Promise<void> {
    let left = nth;
    return new Promise((resolve) => {
      this.disk.onOperation((operation) => {
        if (this.#successor !== null || !matches(operation) || --left > 0) return;
        this.crashNow(kind);
        resolve();
      });
    });
  }

  get crashed(): boolean {
    return this.#successor !== null;
  }

  /** What the next process finds on the disk, and the options to open it with. */
  nextOptions(): FixtureOptions {
    const disk = this.#successor ?? this.disk;
    return { ...this.#options, disk, life: (this.#options.life ?? 0) + 1 };
  }

  /** The life after this one. */
  async next(): Promise<EngineFixture> {
    return await EngineFixture.open(this.nextOptions());
  }

  async restart(): Promise<EngineFixture> {
    await this.close();
    return await this.next();
  }

  async close(): Promise<void> {
    await this.service.close();
  }
}
