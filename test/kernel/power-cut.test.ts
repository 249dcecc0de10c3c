/**
 * Promise 2 with a kernel that really loses its page cache: the volumedriver runs in a user-mode-linux guest, data
 * directory and backend on the guest's ext4, and the whole guest is killed at a random moment, sometimes while it still
 * recovers from the last time. Everything flushed must be there after the next boot, and what is there must be a
 * prefix of what was written. POWER_ROUNDS=N cuts so often, SEED=N repeats the writes and (roughly) the moments.
 */
import { expect } from '@jest/globals';
import { truncateSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { runCommand } from '../../src/base/command.ts';
import type { PowerCutInput, PowerCutReport } from '../support/guest-power-cut.ts';
import { countFrom, eventually, MiB, tell } from '../support/real-driver.ts';
import { testRequires } from '../support/requires.ts';
import { SeededRandom } from '../support/seeded-random.ts';
import { UmlGuest } from '../support/uml.ts';

const rounds = countFrom('POWER_ROUNDS', 10);
const seed = countFrom('SEED', Date.now() % 2 ** 31);
const bootMs = 60_000;

testRequires(
  ['root', 'linux', 'tool:linux.uml', 'tool:mkfs.ext4', 'tool:e2fsck'],
  `everything flushed is there after each of ${rounds} power cuts`,
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'power-'));
    const machine = new Machine(folder);
    try {
      await machine.format();
      for (let round = 0; round < rounds; round++) await machine.liveAndDie();
      await machine.checkAndStop();
      tell(machine.summary());
    } catch (error) {
      throw new Error(`seed ${seed}; the guest said: ${machine.output()}`, { cause: error });
    } finally {
      await machine.kill();
      await rm(folder, { recursive: true, force: true });
    }
  },
  60_000 + rounds * 30_000,
);

/** The disk, what is known about it, and the guest that runs on it now. */
class Machine {
  readonly #folder: string;
  readonly #image: string;
  readonly #random = new SeededRandom(seed);
  #guest: UmlGuest | undefined;
  #lives: number[] = [];
  #flushed = 0;
  #flushes = 0;
  /** Of the present life. */
  #starting = false;
  #recovered: number | undefined;
  #failed = false;
  #flushesNow = 0;
  /** Life by life, for the summary. */
  readonly #told: string[] = [];

  constructor(folder: string) {
    this.#folder = folder;
    this.#image = join(folder, 'disk');
  }

  async format(): Promise<void> {
    await writeFile(this.#image, '');
    truncateSync(this.#image, 512 * MiB);
    await runCommand('mkfs.ext4', ['-q', '-F', this.#image], { timeoutMs: 30_000 });
  }

  async liveAndDie(): Promise<void> {
    const early = this.#lives.length > 0 && this.#random.chance(0.2);
    const lifeMs = this.#random.integer(early ? 3000 : 1500);
    this.#boot({ stop: false });
    await this.#until('the guest starts', () => this.#starting);
    if (!early) await this.#until('the first flush', () => this.#flushesNow > 0);
    await systemClock.sleep(lifeMs);
    await this.kill();
    const found = this.#recovered === undefined ? 'never up' : `found ${this.#recovered}`;
    this.#told.push(`${found}, flushed ${this.#flushed}`);
  }

  async checkAndStop(): Promise<void> {
    this.#boot({ stop: true });
    await this.#until('the last check', () => this.#recovered !== undefined);
    await this.kill();
    // The guest's kernel would replay the journal; what it would find then must be sound.
    await runCommand('e2fsck', ['-p', this.#image], { timeoutMs: 60_000, acceptExitCodes: [0, 1] });
    await runCommand('e2fsck', ['-f', '-n', this.#image], { timeoutMs: 60_000 });
    expect(this.#recovered).toBeGreaterThanOrEqual(this.#flushed);
  }

  async kill(): Promise<void> {
    await this.#guest?.kill();
  }

  output(): string {
    return this.#guest?.output() ?? '';
  }

  summary(): string {
    return `seed ${seed}: ${this.#told.length} power cuts, ${this.#flushes} flushes: ${this.#told.join('; ')}`;
  }

  #boot({ stop }: { stop: boolean }): void {
    this.#starting = false;
    this.#recovered = undefined;
    this.#flushesNow = 0;
    const lives = [...this.#lives];
    const input: PowerCutInput = { seed, lives, flushed: this.#flushed, stop };
    this.#guest = new UmlGuest({
      folder: this.#folder,
      program: 'test/support/guest-power-cut.ts',
      input,
      image: this.#image,
      onReport: (report) => {
        this.#onReport(report as PowerCutReport);
      },
    });
  }

  #onReport(report: PowerCutReport): void {
    if ('starting' in report) this.#starting = true;
    else if ('failed' in report) this.#failed = true;
    else if ('flushed' in report) {
      this.#flushed = report.flushed;
      this.#flushes++;
      this.#flushesNow++;
    } else {
      this.#recovered = report.recovered;
      this.#lives.push(report.recovered + 1);
    }
  }

  async #until(what: string, reached: () => boolean): Promise<void> {
    await eventually(what, bootMs, () => {
      if (this.#failed) throw new Error(`the guest failed before ${what}`);
      return Promise.resolve(reached());
    });
  }
}
