/**
 * One random history of an engine, from a seed: operations on several volumes, crashes at random moments, and after
 * each of them a comparison with the model. Throws, with the steps so far, when something does not fit.
 */
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import { checkAccounts, removeEverything } from './model-cleanup.ts';
import { ModelChanges } from './model-changes.ts';
import { Crashed, Lives, settle, type Loss } from './model-lives.ts';
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
    [2, () => checkAccounts(this.#world, this.#writes)],
    [2, () => this.#restart()],
    [2, () => this.#closeVolume()],
    [4, () => this.#dieAtOnce()],
    [7, () => this.#armSoon()],
  ];

  constructor(seed: number, logger: Logger = silentLogger) {
    this.seed = seed;
    this.#random = new SeededRandom(seed);
    this.#lives = new Lives(seed, this.#random, { logger });
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
        await checkAccounts(this.#world, this.#writes);
      });
      this.#lives.disarm();
      await removeEverything(this.#world, this.#changes);
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
    if (!this.#lives.isFirst && this.#random.chance(0.3)) this.#armCrash(60);
    await this.#lives.open();
  }

  async #dieAtOnce(): Promise<void> {
    this.#lives.die(this.#lives.drawLoss());
    await settle();
  }

  async #armSoon(): Promise<void> {
    this.#armCrash(40);
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
}
