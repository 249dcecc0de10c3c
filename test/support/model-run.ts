/**
 * One random history of an engine, from a seed: operations on several volumes, crashes at random moments, and after
 * each of them a comparison with the model. Throws, with the steps so far, when something does not fit.
 */
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import { ModelChanges } from './model-changes.ts';
import { Crashed, Lives, settle, type Loss } from './model-lives.ts';
import { accountProblems, strayObjects } from './model-space.ts';
import { VolumesModel } from './model-volumes.ts';
import { ModelWorld } from './model-world.ts';
import { ModelWrites } from './model-writes.ts';
import { SeededRandom } from './seeded-random.ts';

export class ModelRun {
  readonly seed: number;
  readonly #random: SeededRandom;
  readonly #lives: Lives;
  readonly #model = new VolumesModel();
  readonly #world: ModelWorld;
  readonly #changes: ModelChanges;
  readonly #writes: ModelWrites;
  /** What a step may be, each with its share of a hundred. */
  readonly #kinds: readonly (readonly [share: number, step: () => Promise<void>])[] = [
    [40, () => this.#writes.write()],
    [7, () => this.#writes.flush()],
    [6, () => this.#changes.takeSnapshot()],
    [4, () => this.#changes.clone()],
    [3, () => this.#changes.rollBack()],
    [5, () => this.#changes.removeSnapshot()],
    [2, () => this.#changes.removeVolume()],
    [3, () => this.#changes.createVolume()],
    [2, () => this.#changes.grow()],
    [4, () => this.#checkpoint()],
    [4, () => this.#wake()],
    [3, () => this.#verifyOne()],
    [2, () => this.#checkAccounts()],
    [2, () => this.#restart()],
    [2, () => this.#closeVolume()],
    [4, () => this.#dieAtOnce()],
    [7, () => this.#armSoon()],
  ];

  constructor(seed: number, logger: Logger = silentLogger) {
    this.seed = seed;
    this.#random = new SeededRandom(seed);
    this.#lives = new Lives(seed, this.#random, logger);
    this.#world = new ModelWorld(this.#random, this.#lives, this.#model);
    this.#changes = new ModelChanges(this.#world);
    this.#writes = new ModelWrites(this.#world);
  }

  get steps(): readonly string[] {
    return this.#world.steps;
  }

  async run(stepCount: number): Promise<void> {
    try {
      await this.#open();
      await this.#survive(() => this.#changes.createVolume());
      for (let i = 0; i < stepCount; i++) await this.#survive(() => this.#step());
      await this.#survive(async () => {
        await this.#world.verifyAll('process', false);
        await this.#checkAccounts();
      });
      await this.#removeEverything();
      await this.#lives.engine.close();
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      throw new Error(`seed ${this.seed}: ${text}\nsteps: ${this.steps.join('; ')}`, {
        cause: error,
      });
    }
  }

  async #open(): Promise<void> {
    this.#world.forgetDevices();
    if (!this.#lives.isFirst && this.#random.chance(0.3)) this.#armCrash(120);
    await this.#lives.open();
  }

  async #dieAtOnce(): Promise<void> {
    this.#lives.die(this.#lives.drawLoss());
    await settle();
  }

  async #armSoon(): Promise<void> {
    this.#armCrash(60);
    await Promise.resolve();
  }

  #armCrash(operationsMax: number): void {
    const loss = this.#lives.drawLoss();
    const left = 1 + this.#random.integer(operationsMax);
    this.#world.note(`arm a loss of the ${loss} in ${left} operations`);
    this.#lives.arm(loss, left);
  }

  /** Runs a step, and the recovery when the process or machine goes in it. */
  async #survive(step: () => Promise<void>): Promise<void> {
    this.#changes.begin();
    try {
      await step();
    } catch (error) {
      if (!(error instanceof Crashed)) throw error;
    }
    let loss: Loss = 'process';
    while (this.#lives.loss !== null) {
      if (this.#lives.loss === 'power') loss = 'power';
      await settle();
      this.#world.note(`recover from a loss of the ${loss}`);
      try {
        await this.#open();
        await this.#changes.settle();
        await this.#world.verifyAll(loss, true);
        loss = 'process';
      } catch (error) {
        if (!(error instanceof Crashed)) throw error;
      }
    }
  }

  /** One step of a drawn kind. */
  async #step(): Promise<void> {
    let draw = this.#random.integer(100);
    for (const [share, step] of this.#kinds) {
      draw -= share;
      if (draw >= 0) continue;
      await step();
      return;
    }
    throw new Error('the kinds of steps have a hundred shares');
  }

  async #checkpoint(): Promise<void> {
    const volume = this.#world.pick([...this.#model.all]);
    if (volume === undefined) return;
    this.#world.note(`checkpoint ${volume.name}`);
    const { position } = volume.content;
    await this.#lives.live(this.#writes.checkpointOf(volume));
    volume.content.markDurable(position);
  }

  /** Lets time pass: maintenance, and uploads that wait to try again. */
  async #wake(): Promise<void> {
    this.#world.note('wait');
    this.#lives.engine.clock.wakeAll();
    await this.#lives.live(settle());
  }

  async #restart(): Promise<void> {
    this.#world.note('restart');
    await this.#lives.live(this.#lives.engine.close());
    for (const { content } of this.#model.all) content.markDurable(content.position);
    await this.#open();
    await this.#world.verifyAll('process', false);
  }

  async #closeVolume(): Promise<void> {
    const volume = this.#world.pick(this.#model.volumes);
    if (volume === undefined) return;
    this.#world.note(`close ${volume.name}`);
    await this.#world.release(volume);
    const { catalog } = this.#lives.engine.service;
    await this.#lives.live(catalog.close(catalog.find(volume.id)));
    volume.content.markDurable(volume.content.position);
  }

  async #verifyOne(): Promise<void> {
    const volume = this.#world.pick(this.#model.volumes);
    if (volume === undefined) return;
    this.#world.note(`verify ${volume.name}`);
    await this.#world.verifyVolume(volume, 'process', false);
  }

  async #checkAccounts(): Promise<void> {
    this.#world.note('check the accounts');
    const problems = await this.#lives.live(accountProblems(this.#lives.engine));
    if (problems.length > 0) throw new Error(`space accounts: ${problems.join('; ')}`);
    if (this.#lives.powerWasCut) return;
    for (const volume of this.#model.all) {
      const { position } = volume.content;
      await this.#lives.live(this.#writes.checkpointOf(volume));
      volume.content.markDurable(position);
    }
    await this.#lives.live(settle());
    const stray = await this.#lives.live(strayObjects(this.#lives.engine));
    if (stray.length > 0) throw new Error(`objects that nothing knows: ${stray.join(', ')}`);
  }

  /** In any order; then nothing is left, neither in the backend nor on the local disk. */
  async #removeEverything(): Promise<void> {
    this.#lives.disarm();
    while (this.#model.all.size > 0) {
      const snapshot = this.#world.pick(this.#model.snapshots);
      const volume = this.#world.pick(this.#model.volumes);
      if (snapshot !== undefined && (volume === undefined || this.#random.chance(0.5))) {
        await this.#changes.removeSnapshot(snapshot);
      } else if (volume !== undefined) await this.#changes.removeVolume(volume);
      else throw new Error('a volume stays that nothing needs');
    }
    await settle();
    const stored = await this.#lives.engine.store.list('');
    const left = stored.map(({ key }) => key).filter((key) => !/^(backend|writers\/.*)$/.test(key));
    if (left.length > 0 && !this.#lives.powerWasCut) {
      throw new Error(`left over: ${left.join(', ')}`);
    }
    const { disk } = this.#lives;
    const local = disk.list('/data/volumes').map((volume) => {
      return `${volume} with ${disk.list(`/data/volumes/${volume}`).join(' ') || 'nothing'}`;
    });
    if (local.length > 0) throw new Error(`left over on the disk: ${local.join(', ')}`);
  }
}
