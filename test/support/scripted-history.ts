/**
 * A written history of an engine that is crashed at one of its operations, or runs to its end: the steps go through the
 * same model as random ones. After the crash everything is recovered and compared, the space accounts are checked, and
 * everything is removed.
 */
import { VolumeError, hasCode } from '../../src/volumes/errors.ts';
import type { EngineLimits } from '../../src/volumedriver/environment.ts';
import { ModelChanges } from './model-changes.ts';
import { checkAccounts, removeEverything } from './model-cleanup.ts';
import type { Edit } from './model-content.ts';
import { Crashed, Lives, settle, type ArmedFault, type Loss } from './model-lives.ts';
import { VolumesModel, type SnapshotModel, type VolumeModel } from './model-volumes.ts';
import { ModelWorld, ulidOf } from './model-world.ts';
import { ModelWrites } from './model-writes.ts';
import { SeededRandom } from './seeded-random.ts';

const clusterBytes = 4096;
const mib = 2 ** 20;

export interface HistoryOptions {
  readonly memory: boolean;
  readonly limits: Partial<EngineLimits>;
  /** Draws what a history leaves open; the same seed gives the same history. */
  readonly seed?: number;
}

export type History = (script: Script) => Promise<void>;

/** What the steps of a history are written with. */
export class Script {
  readonly world: ModelWorld;
  readonly changes: ModelChanges;
  readonly writes: ModelWrites;
  readonly #model = new VolumesModel();
  readonly #open: (loss: Loss) => Promise<void>;
  #isDown = false;

  constructor(random: SeededRandom, lives: Lives, open: (loss: Loss) => Promise<void>) {
    this.world = new ModelWorld(random, lives, this.#model);
    this.changes = new ModelChanges(this.world);
    this.writes = new ModelWrites(this.world);
    this.#open = open;
  }

  async create(sizeBytes = mib): Promise<VolumeModel> {
    this.changes.begin();
    await this.changes.createVolume(sizeBytes);
    return last(this.#model.volumes);
  }

  async clone(source: { snapshot: SnapshotModel } | { volume: VolumeModel }): Promise<VolumeModel> {
    this.changes.begin();
    await this.changes.cloneOf(source);
    return last(this.#model.volumes);
  }

  async snapshot(volume: VolumeModel): Promise<SnapshotModel> {
    this.changes.begin();
    await this.changes.takeSnapshot(volume);
    return last(volume.snapshots);
  }

  async rollBack(snapshot: SnapshotModel): Promise<void> {
    this.changes.begin();
    await this.changes.rollBack(snapshot);
  }

  async removeSnapshot(snapshot: SnapshotModel): Promise<void> {
    this.changes.begin();
    await this.changes.removeSnapshot(snapshot);
  }

  async removeVolume(volume: VolumeModel): Promise<void> {
    this.changes.begin();
    await this.changes.removeVolume(volume);
  }

  async grow(volume: VolumeModel): Promise<void> {
    this.changes.begin();
    await this.changes.grow(volume);
  }

  /** Ranges in clusters, all under way at once; a byte of 0 discards. */
  async write(
    volume: VolumeModel,
    ...ranges: readonly (readonly [cluster: number, count: number, byte: number])[]
  ): Promise<void> {
    await this.writes.writeTo(volume, ranges.map(editOf));
  }

  async writeThrough(volume: VolumeModel, cluster: number, byte: number): Promise<void> {
    await this.writes.writeTo(volume, [editOf([cluster, 1, byte])], { fua: true });
  }

  async writeAndCheckpoint(volume: VolumeModel, cluster: number, byte: number): Promise<void> {
    await this.writes.writeTo(volume, [editOf([cluster, 2, byte])], { alongside: true });
  }

  async flush(volume: VolumeModel): Promise<void> {
    await this.writes.flush(volume);
  }

  async checkpoint(volume: VolumeModel): Promise<void> {
    const { position } = volume.content;
    await this.world.lives.live(this.writes.checkpointOf(volume));
    volume.content.markDurable(position);
  }

  /** Lets uploads go on. */
  async settle(): Promise<void> {
    await this.world.lives.live(settle());
  }

  async closeVolume(volume: VolumeModel): Promise<void> {
    await this.world.release(volume);
    const { catalog } = this.world.lives.engine.service;
    const entry = catalog.byId(ulidOf(volume));
    if (entry !== undefined) await this.world.lives.live(catalog.close(entry));
    volume.content.markDurable(volume.content.position);
  }

  /** The end of this life, and the recovery, which may be crashed as well. */
  async crash(loss: Loss): Promise<void> {
    this.world.lives.die(loss);
    await this.#open(loss);
  }

  /** No engine runs: it did not start again. */
  get isDown(): boolean {
    return this.#isDown;
  }

  /** A clean restart; when a sync fails in it, it may be less than that. */
  async restart(): Promise<void> {
    const { lives } = this.world;
    this.#isDown = true;
    await lives.live(lives.engine.close());
    this.world.forgetDevices();
    if (!lives.faultHappened) {
      for (const { content } of this.#model.all) content.markDurable(content.position);
    }
    await lives.open();
    this.#isDown = false;
    await this.world.verifyAll(lives.faultHappened ? 'power' : 'process', lives.faultHappened);
  }
}

export interface CrashPoint {
  readonly loss: Loss;
  /** Which operation that changes something, counted over the whole history, is the last of its life. */
  readonly operation: number;
}

/** Runs a history up to a crash point, or to its end; tells how many operations there were. */
export async function runHistory(
  history: History,
  options: HistoryOptions,
  crash: CrashPoint | null,
): Promise<number> {
  const random = new SeededRandom(options.seed ?? 1);
  const lives = new Lives(options.seed ?? 1, random, options);
  const recover = async (loss: Loss): Promise<void> => {
    let worst = loss;
    while (lives.loss !== null) {
      if (lives.loss === 'power') worst = 'power';
      await settle();
      try {
        script.world.forgetDevices();
        await lives.open();
        await script.changes.settle();
        await script.world.verifyAll(worst, true);
      } catch (error) {
        if (!(error instanceof Crashed)) throw error;
      }
    }
  };
  const script = new Script(random, lives, recover);
  if (crash !== null) lives.arm(crash.loss, crash.operation);
  try {
    await lives.open();
    await history(script);
  } catch (error) {
    if (!(error instanceof Crashed)) throw error;
  }
  const count = lives.changeCount;
  if (lives.loss !== null) await recover(lives.loss);
  lives.disarm();
  if (crash?.loss === 'process') {
    // What a recovery has shown survives even the next loss.
    lives.die('power');
    await recover('power');
  }
  await script.world.verifyAll('process', false);
  await checkAccounts(script.world, script.writes);
  await removeEverything(script.world, script.changes);
  await lives.engine.close();
  return count;
}

/**
 * Runs a history in which something fails once. Whatever it breaks is mended afterwards: in place, with the call that
 * failed repeated, or by a new process. Nothing that was flushed may be lost, and everything works again. Tells in how many
 * places the history could have failed.
 */
export async function runHistoryWithFault(
  history: History,
  options: HistoryOptions,
  { fault, restart }: { fault: ArmedFault | null; restart: boolean },
): Promise<{ diskChanges: number; storeCalls: number }> {
  const random = new SeededRandom(options.seed ?? 1);
  const lives = new Lives(options.seed ?? 1, random, { ...options, patient: true });
  const script = new Script(random, lives, () => Promise.reject(new Error('no crash is meant')));
  await lives.open();
  if (fault !== null) lives.armFault(fault);
  try {
    await history(script);
  } catch (error) {
    if (!(error instanceof VolumeError) || !lives.faultHappened) throw error;
    script.world.note(`failed: ${error.message}`);
  }
  const places = { diskChanges: lives.changeCount, storeCalls: lives.storeCallCount };
  lives.disarm();
  if (restart || script.isDown || !(await mend(script))) await startAnew(script);
  await script.world.verifyAll('process', false);
  await checkAccounts(script.world, script.writes);
  await script.restart(); // records that a failure left behind go at the next start
  await removeEverything(script.world, script.changes);
  await lives.live(lives.engine.close());
  return places;
}

async function startAnew({ world, changes }: Script): Promise<void> {
  world.lives.die('process');
  await settle();
  world.forgetDevices();
  await world.lives.open();
  await changes.settle();
  await world.verifyAll('power', true); // a failed sync may have cost as much as a power cut
}

/** False when only a new process helps: a directory of the store could not be synced. */
async function mend({ world, changes, writes }: Script): Promise<boolean> {
  const { lives } = world;
  try {
    for (let turn = 0; turn < 5; turn++) {
      lives.engine.clock.wakeAll();
      await settle();
    }
    await changes.repeat();
    for (const volume of world.model.volumes) {
      const device = await world.device(volume);
      await lives.live(device.flush());
      await world.verifyVolume(volume, 'process', true);
    }
    for (const volume of world.model.all) await lives.live(writes.checkpointOf(volume));
    return true;
  } catch (error) {
    // OPERATION_PENDING: the call that failed still waits for the backend.
    if (!hasCode(error, 'UNAVAILABLE') && !hasCode(error, 'OPERATION_PENDING')) throw error;
    return false;
  }
}

function editOf([cluster, count, byte]: readonly [number, number, number]): Edit {
  const length = count * clusterBytes;
  const data = byte === 0 ? null : Buffer.alloc(length, byte);
  return { offset: cluster * clusterBytes, length, data, acknowledged: false };
}

function last<Item>(items: readonly Item[]): Item {
  const item = items.at(-1);
  if (item === undefined) throw new Error('the history made nothing');
  return item;
}
