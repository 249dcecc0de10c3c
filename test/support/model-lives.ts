/**
 * The lives of one engine on one simulated disk: it is opened, dies at a moment that was chosen or drawn, and is opened
 * again on what is left. Whoever waits for a call of a life that ends learns it by Crashed.
 */
import type { Logger } from '../../src/base/logger.ts';
import type { EngineLimits } from '../../src/volumedriver/environment.ts';
import { MemoryStore } from '../../src/volumedriver/store/memory-store.ts';
import type { ObjectStore } from '../../src/volumedriver/store/object-store.ts';
import { EngineFixture, type FixtureOptions } from './engine-fixture.ts';
import { FaultyStore } from './faulty-store.ts';
import { LifeStore } from './model-store.ts';
import type { SeededRandom } from './seeded-random.ts';
import { SimulatedDisk } from './simulated-disk.ts';

const mib = 2 ** 20;

export type Loss = 'process' | 'power';

/** The process or machine went while something was under way. */
export class Crashed extends Error {}

export class Lives {
  readonly #random: SeededRandom;
  readonly #options: FixtureOptions;
  #disk: SimulatedDisk;
  #store: FaultyStore | null = null;
  #fixture: EngineFixture | null = null;
  #life = 0;
  #crash = Promise.withResolvers<never>();
  /** How this life ended. */
  #loss: Loss | null = null;
  /** Operations of disk and store that are left to this life. */
  #countdown: { left: number; loss: Loss } | null = null;
  #powerWasCut = false;

  constructor(seed: number, random: SeededRandom, logger: Logger) {
    this.#random = random;
    const limits: Partial<EngineLimits> = {
      tlogBytesMax: 300 + random.integer(6000),
      replayBytesMax: 1000 + random.integer(30_000),
      earlySyncBytes: 4096 * (1 + random.integer(200)),
      unsyncedBytesMax: 4096 * (200 + random.integer(400)),
    };
    this.#disk = new SimulatedDisk({ seed, cacheMissProbability: random.chance(0.5) ? 0.2 : 0 });
    const memory = random.chance(0.3) ? new MemoryStore() : null;
    this.#options = {
      seed,
      logger,
      engine: { limits, reserveBytes: 4096, readCacheBytes: random.chance(0.5) ? 65_536 : mib },
      ...(memory !== null && { makeStore: (disk: SimulatedDisk) => this.#lifeOf(memory, disk) }),
      wrapStore: (store) => (this.#store = new FaultyStore(store)),
    };
  }

  get engine(): EngineFixture {
    if (this.#fixture === null) throw new Error('no engine runs');
    return this.#fixture;
  }

  get disk(): SimulatedDisk {
    return this.#disk;
  }

  /** The running life's store: faults can be put into it. */
  get store(): FaultyStore {
    if (this.#store === null) throw new Error('no engine runs');
    return this.#store;
  }

  get loss(): Loss | null {
    return this.#loss;
  }

  /** Deletions that were not synced may have come back. */
  get powerWasCut(): boolean {
    return this.#powerWasCut;
  }

  get isFirst(): boolean {
    return this.#life <= 1;
  }

  /** Begins the next life on what the last one left. */
  async open(): Promise<void> {
    this.#loss = null;
    this.#crash = Promise.withResolvers<never>();
    this.#crash.promise.catch(() => undefined);
    this.#disk.onOperation(() => {
      this.#count();
    });
    const options = { ...this.#options, disk: this.#disk, life: this.#life++ };
    this.#fixture = await this.live(EngineFixture.open(options));
  }

  /** Ends this life, once. */
  die(loss: Loss): void {
    this.#countdown = null;
    if (this.#loss !== null) return;
    this.#loss = loss;
    this.#powerWasCut ||= loss === 'power';
    this.#disk = this.#disk.crash(loss);
    this.#crash.reject(new Crashed('crashed'));
  }

  /** This life, or a later one, will end at the n-th operation from now. */
  arm(loss: Loss, left: number): void {
    this.#countdown ??= { left, loss };
  }

  disarm(): void {
    this.#countdown = null;
  }

  drawLoss(): Loss {
    return this.#random.chance(0.5) ? 'process' : 'power';
  }

  /** The outcome of a call, unless the process dies first. */
  async live<Result>(call: Promise<Result>): Promise<Result> {
    try {
      return await Promise.race([call, this.#crash.promise]);
    } catch (error) {
      call.catch(() => undefined);
      if (this.#loss !== null) throw new Crashed('crashed', { cause: error });
      throw error;
    }
  }

  #lifeOf(memory: MemoryStore, disk: SimulatedDisk): ObjectStore {
    return new LifeStore(memory, disk, () => {
      this.#count();
    });
  }

  #count(): void {
    const countdown = this.#countdown;
    if (countdown !== null && --countdown.left <= 0) this.die(countdown.loss);
  }
}

/** Lets everything run that does not wait for a clock. */
export async function settle(turns = 20): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
}
