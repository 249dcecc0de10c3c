/**
 * The lives of one engine on one simulated disk: it is opened, dies at a moment that was chosen or drawn, and is opened
 * again on what is left. Whoever waits for a call of a life that ends learns it by Crashed.
 */
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import type { EngineLimits } from '../../src/volumedriver/environment.ts';
import { MemoryStore } from '../../src/volumedriver/store/memory-store.ts';
import type { ObjectStore } from '../../src/volumedriver/store/object-store.ts';
import { VolumeError } from '../../src/volumes/errors.ts';
import { EngineFixture, StillClock, type FixtureOptions } from './engine-fixture.ts';
import { FaultyStore } from './faulty-store.ts';
import { LifeStore } from './model-store.ts';
import type { SeededRandom } from './seeded-random.ts';
import { SimulatedDisk } from './simulated-disk.ts';
import type { OperationKind } from './simulated-operations.ts';

const mib = 2 ** 20;

export type Loss = 'process' | 'power';

/** The process or machine went while something was under way. */
export class Crashed extends Error {}

export interface LivesOptions {
  /** The backend is a store in memory, instead of files on the same disk; drawn unless given. */
  readonly memory?: boolean;
  /** Drawn unless given. */
  readonly limits?: Partial<EngineLimits>;
  readonly logger?: Logger;
  readonly capacityBytes?: number;
  readonly reserveBytes?: number;
  /** Time passes whenever a call waits for it: for runs with faults, after which the engine tries again. */
  readonly patient?: boolean;
}

/** Something that goes wrong once, at the n-th change of the disk or the n-th call of the store from now. */
export type ArmedFault =
  | { readonly at: 'disk'; readonly left: number; readonly errno: 'EIO' | 'ENOSPC' }
  | { readonly at: 'store'; readonly left: number; readonly afterwards: boolean };

/** Waits that a call may take: what goes wrong goes wrong once. */
const turnsMax = 200;

/** Operations that change nothing: dying before or after one makes no difference. */
const harmless: ReadonlySet<OperationKind> = new Set([
  'open',
  'list',
  'sizeOf',
  'capacity',
  'readCached',
  'readSync',
  'read',
]);

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
  /** Changes of disk and store that are left to this life. */
  #countdown: { left: number; loss: Loss } | null = null;
  #fault: ArmedFault | null = null;
  #clock = new StillClock();
  readonly #patient: boolean;
  /** Operations so far that changed something, of all lives. */
  #changes = 0;
  #storeCalls = 0;
  #powerWasCut = false;

  constructor(seed: number, random: SeededRandom, options: LivesOptions = {}) {
    this.#random = random;
    const drawnLimits: Partial<EngineLimits> = {
      tlogBytesMax: 300 + random.integer(6000),
      replayBytesMax: 1000 + random.integer(30_000),
      earlySyncBytes: 4096 * (1 + random.integer(200)),
      unsyncedBytesMax: 4096 * (200 + random.integer(400)),
    };
    const { limits = drawnLimits, logger = silentLogger, reserveBytes = 4096 } = options;
    const cacheMissProbability = random.chance(0.5) ? 0.2 : 0;
    const { capacityBytes = Infinity } = options;
    this.#disk = new SimulatedDisk({ seed, cacheMissProbability, capacityBytes });
    const drawnMemory = random.chance(0.3);
    const memory = (options.memory ?? drawnMemory) ? new MemoryStore() : null;
    this.#options = {
      seed,
      logger,
      engine: { limits, reserveBytes, readCacheBytes: random.chance(0.5) ? 65_536 : mib },
      ...(memory !== null && { makeStore: (disk: SimulatedDisk) => this.#lifeOf(memory, disk) }),
      wrapStore: (store) => (this.#store = this.#faultyStore(store)),
    };
    this.#patient = options.patient ?? false;
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

  /** Operations so far that changed something, of all lives. */
  get changeCount(): number {
    return this.#changes;
  }

  get storeCallCount(): number {
    return this.#storeCalls;
  }

  get isFirst(): boolean {
    return this.#life <= 1;
  }

  /** Begins the next life on what the last one left. */
  async open(): Promise<void> {
    this.#loss = null;
    this.#crash = Promise.withResolvers<never>();
    this.#crash.promise.catch(() => undefined);
    const disk = this.#disk;
    disk.onOperation(({ kind }) => {
      if (harmless.has(kind)) return;
      this.#count();
      const fault = this.#fault;
      if (fault?.at !== 'disk' || !this.#isDue()) return;
      disk.fail({ kind, errno: fault.errno });
    });
    this.#clock = new StillClock();
    const options = { ...this.#options, disk, clock: this.#clock, life: this.#life++ };
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
    this.#fault = null;
    this.#disk.repair();
    this.#store?.repair();
  }

  armFault(fault: ArmedFault): void {
    this.#fault = fault;
  }

  /** The fault that was armed has happened. */
  get faultHappened(): boolean {
    return this.#fault?.left === 0;
  }

  drawLoss(): Loss {
    return this.#random.chance(0.5) ? 'process' : 'power';
  }

  /** The outcome of a call, unless the process dies first. */
  async live<Result>(call: Promise<Result>): Promise<Result> {
    try {
      const ends: Promise<Result>[] = [call, this.#crash.promise];
      if (this.#patient) ends.push(this.#passTime(call));
      return await Promise.race(ends);
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

  /** Ends waits for the clock as long as the call goes on, which must not be for ever. */
  async #passTime(call: Promise<unknown>): Promise<never> {
    const clock = this.#clock;
    const ended = Symbol('ended');
    const end = call.then(
      () => ended,
      () => ended,
    );
    for (let turn = 0; turn < turnsMax; turn++) {
      if ((await Promise.race([end, settle(10)])) === ended)
        return await new Promise(() => undefined);
      clock.wakeAll();
    }
    throw new VolumeError('UNAVAILABLE', `a call has not ended after ${turnsMax} waits`);
  }

  #faultyStore(inner: ObjectStore): FaultyStore {
    const store = new FaultyStore(inner);
    store.delay = async (call) => {
      this.#storeCalls++;
      const fault = this.#fault;
      if (fault?.at === 'store' && this.#isDue())
        store.fail({ call, afterwards: fault.afterwards });
      await Promise.resolve();
    };
    return store;
  }

  /** Counts the armed fault down; true when it is its turn. */
  #isDue(): boolean {
    const fault = this.#fault;
    if (fault === null || fault.left === 0) return false;
    this.#fault = { ...fault, left: fault.left - 1 };
    return fault.left === 1;
  }

  #count(): void {
    this.#changes++;
    const countdown = this.#countdown;
    if (countdown !== null && --countdown.left <= 0) this.die(countdown.loss);
  }
}

/** Lets everything run that does not wait for a clock. */
export async function settle(turns = 20): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
}
