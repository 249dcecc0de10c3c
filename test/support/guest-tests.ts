/**
 * Test files that run in a user-mode-linux guest (test/guest/*.ts, see guest-jest.ts), shown as tests of the file that
 * names them: its top level awaits the guest, and then defines a test for each that ran there. A guest that panics,
 * hangs or dies fails the test that it was at, with the end of its console.
 */
import { describe, test } from '@jest/globals';
import { truncateSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import type { GuestReport, GuestTest } from './guest-jest.ts';
import { MiB, tell } from './real-driver.ts';
import { describeRequires, unmetRequirement, type Requirement } from './requires.ts';
import { mark, UmlGuest } from './uml.ts';

export interface GuestTestsOptions {
  readonly files: readonly string[];
  /** Beyond those of every guest. */
  readonly requirements?: readonly Requirement[];
  readonly memoryMiB: number;
  /** An ext4 disk of its own; its image is sparse. */
  readonly diskMiB?: number;
  /** For all tests together, the start of the guest included. */
  readonly limitMs: number;
  /** Names of variables that the tests read, such as ROUNDS. */
  readonly variables?: readonly string[];
}

const guestRequirements = ['root', 'linux', 'tool:linux.uml'] as const;

export async function testsInGuest(name: string, options: GuestTestsOptions): Promise<void> {
  const requirements = [...guestRequirements, ...(options.requirements ?? [])];
  const run = new GuestRun();
  if (unmetRequirement(requirements) === undefined) await run.run(options);
  describeRequires(requirements, name, () => {
    defineTests(run);
  });
}

function defineTests(run: GuestRun): void {
  for (const { titles, failures } of run.tests) {
    const [title = '', ...groups] = titles.toReversed();
    const define = (): void => {
      test(title, () => {
        if (failures.length > 0) throw failure([...failures, run.console()].join('\n\n'));
      });
    };
    groups.reduce(
      (inner, group) => () => {
        describe(group, inner);
      },
      define,
    )();
  }
  test('the guest runs to its end', () => {
    if (run.trouble.length > 0) throw failure([...run.trouble, run.console()].join('\n\n'));
  });
}

/** Where it was thrown is of no interest: the text has the guest's own stack. */
function failure(text: string): Error {
  const error = new Error(text);
  error.stack = text;
  return error;
}

class GuestRun {
  readonly tests: GuestTest[] = [];
  /** What went wrong other than in a test. */
  readonly trouble: string[] = [];
  #startedMs = performance.now();
  #current = 'its start';
  #finished = false;
  #output = '';

  /** The end of what its kernel and its programs said, for the first who asks. */
  console(): string {
    const lines = this.#output.split('\n').filter((line) => !line.startsWith(mark));
    this.#output = '';
    return lines.join('\n');
  }

  async run(options: GuestTestsOptions): Promise<void> {
    const folder = await mkdtemp(join(tmpdir(), 'guest-'));
    try {
      await this.#runIn(folder, options);
    } catch (error) {
      this.trouble.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  async #runIn(folder: string, options: GuestTestsOptions): Promise<void> {
    const { diskMiB, memoryMiB, files } = options;
    const image = diskMiB === undefined ? {} : { image: await makeDisk(folder, diskMiB) };
    const done = Promise.withResolvers<string>();
    const limit = setTimeout(() => {
      done.resolve(`did not end within ${options.limitMs / 1000} s`);
    }, options.limitMs);
    this.#startedMs = performance.now();
    const guest = new UmlGuest({
      ...{ folder, memoryMiB, program: 'test/support/guest-jest.ts', input: files, ...image },
      environment: environmentOf(['GUEST_TESTS', ...(options.variables ?? [])]),
      onReport: (report) => {
        this.#onReport(report as GuestReport);
        if (this.#finished) done.resolve('');
      },
    });
    const ended = guest.ended.then(() => 'ended');
    try {
      const why = await Promise.race([done.promise, ended]);
      if (why !== '') this.trouble.push(`the guest ${why}, at: ${this.#current}`);
      this.#output = guest.output();
      this.#summarize();
    } finally {
      clearTimeout(limit);
      await guest.kill();
    }
  }

  #onReport(report: GuestReport): void {
    if ('told' in report) tell(report.told);
    else if ('starting' in report) {
      this.#current = report.starting.join(' > ');
    } else if ('test' in report) this.tests.push(report.test);
    else if ('failed' in report) {
      this.trouble.push('the program in the guest failed');
      this.#finished = true;
    } else {
      this.trouble.push(...report.errors);
      if (this.tests.length === 0) this.trouble.push('no test ran');
      this.#finished = true;
    }
  }

  #summarize(): void {
    const slowest = this.tests.toSorted((a, b) => b.durationMs - a.durationMs).slice(0, 3);
    const named = slowest.map(
      ({ titles, durationMs }) => `${titles.at(-1) ?? ''}: ${(durationMs / 1000).toFixed(1)} s`,
    );
    tell(`${this.tests.length} tests in a guest, ${this.#seconds()} s; ${named.join('; ')}`);
  }

  #seconds(): string {
    return ((performance.now() - this.#startedMs) / 1000).toFixed(1);
  }
}

async function makeDisk(folder: string, sizeMiB: number): Promise<string> {
  const image = join(folder, 'disk');
  await writeFile(image, '');
  truncateSync(image, sizeMiB * MiB);
  await runCommand('mkfs.ext4', ['-q', '-F', image], { timeoutMs: 30_000 });
  return image;
}

function environmentOf(names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}
