/**
 * Do the tests find bugs? Six are planted, one at a time, into a copy of the tree (the patches are in planted/), where
 * the random and the written histories then have to fail, because the model expects something else. Without a patch the
 * same seeds and histories pass. The copies are made in a temp folder: the tree itself is never touched.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import pLimit from 'p-limit';
import { tell } from '../support/real-driver.ts';

const root = resolve(import.meta.dirname, '../..');
const copied = [
  'bin',
  'jest.config.js',
  'package.json',
  'scripts/jest',
  'src',
  'test/property',
  'test/support',
  'tsconfig.json',
  '.swcrc',
];
/** Against hanging only. */
const limitMs = 240_000;
const copiesAtATime = 2;

/** A part of the suite that is cheap enough to be run again and again. */
interface Histories {
  readonly file: string;
  readonly tests: string;
  readonly env: Readonly<Record<string, string>>;
}

/** The first sixty seeds, far more than it takes: half of SEEDS is the share of the other test file. */
const random: Histories = {
  file: 'test/property/engine.property.test.ts',
  tests: '',
  env: { FIRST_SEED: '1', SEEDS: '120', STEPS: '60' },
};
const written: Histories = {
  file: 'test/property/scripted-crash.test.ts',
  tests: [
    'process at every operation of (writes, a flush|a snapshot, a rollback)',
    'power at every operation of (TLogs that roll|checkpoints with writes)',
  ].join('|'),
  env: {},
};

interface Planted {
  readonly patch: string;
  readonly histories: Histories;
  /** What the model says when it finds it. */
  readonly finding: RegExp;
}

const lost = /no legal prefix|is wrong|is damaged|what any order/;
const planted: readonly Planted[] = [
  { patch: 'dropped-fsync', histories: random, finding: lost },
  { patch: 'reply-before-append', histories: written, finding: /no legal prefix/ },
  { patch: 'skipped-checksum', histories: written, finding: /no legal prefix/ },
  { patch: 'map-out-of-order', histories: random, finding: lost },
  { patch: 'checkpoint-too-early', histories: written, finding: /volumes: there are \[\], but/ },
  { patch: 'double-free', histories: random, finding: /freed and used|is wrong|does not exist/ },
];

interface Outcome {
  readonly failed: boolean;
  readonly output: string;
}

let sandbox: string;
let over = false;
const limit = pLimit(copiesAtATime);
const runs = new Map<string, Promise<Outcome>>();

beforeAll(() => {
  sandbox = mkdtempSync(join(realpathSync(tmpdir()), 'planted-'));
  const start = (name: string, histories: Histories, patch: string | null): void => {
    const run = limit(async () => {
      if (over) throw new Error('nobody waits for it any more');
      return await runIn(copyTree(name), histories, patch);
    });
    run.catch(() => undefined); // the test of that name sees it
    runs.set(name, run);
  };
  start('random histories', random, null);
  start('written histories', written, null);
  for (const { patch, histories } of planted) start(patch, histories, patch);
});

afterAll(async () => {
  over = true; // when only some of the tests were asked for
  await Promise.allSettled(runs.values());
  rmSync(sandbox, { recursive: true, force: true });
}, limitMs);

function copyTree(name: string): string {
  const copy = join(sandbox, name.replace(' ', '-'));
  for (const path of copied) {
    mkdirSync(dirname(join(copy, path)), { recursive: true });
    cpSync(join(root, path), join(copy, path), { recursive: true });
  }
  mkdirSync(join(copy, 'temp'));
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  return copy;
}

async function runIn(copy: string, histories: Histories, patch: string | null): Promise<Outcome> {
  if (patch !== null) {
    // Outside of any repository git applies a patch to files, and refuses it as a whole when it doesn't fit.
    const path = join(root, 'test/property/planted', `${patch}.patch`);
    const applied = await execute('git', ['apply', '--verbose', path], copy, {
      GIT_CEILING_DIRECTORIES: sandbox,
    });
    if (applied.failed || !applied.output.includes('cleanly')) {
      throw new Error(`${patch}.patch does not fit any more, renew it: ${applied.output}`);
    }
  }
  const args = ['--ci', '--runTestsByPath', join(copy, histories.file)];
  if (histories.tests !== '') args.push('--testNamePattern', histories.tests);
  const env = { ...histories.env, TMPDIR: join(copy, 'temp'), FORCE_COLOR: '0' };
  return await execute(join(copy, 'scripts/jest'), args, copy, env);
}

/** Rejects when the command was killed; an exit code is part of the outcome. */
function execute(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>>,
): Promise<Outcome> {
  const options = { cwd, env: { ...process.env, ...env }, timeout: limitMs, maxBuffer: 2 ** 26 };
  return new Promise((resolveOutcome, reject) => {
    execFile(command, args, options, (error, stdout, stderr) => {
      const output = `${stdout}\n${stderr}`;
      if (error !== null && typeof error.code !== 'number') {
        reject(new Error(`${command} did not end by itself: ${output}`, { cause: error }));
      } else resolveOutcome({ failed: error !== null, output });
    });
  });
}

async function outcomeOf(name: string): Promise<Outcome> {
  const run = runs.get(name);
  if (run === undefined) throw new Error(`nothing runs for ${name}`);
  return await run;
}

/** The first thing that a history said: which one it was, what was wrong, and its steps. */
function findingIn(
  output: string,
): { history: string; problem: string; steps: string } | undefined {
  const match = /^ *(seed \d+|operation \d+ of \d+): (.+)$/m.exec(output);
  if (match?.[1] === undefined || match[2] === undefined) return undefined;
  const steps = /^ *steps: (.+)$/m.exec(output)?.[1] ?? 'as written';
  return { history: match[1], problem: match[2], steps };
}

describe('without a planted bug', () => {
  test.each(['random histories', 'written histories'])(
    'the %s pass',
    async (name) => {
      const { failed, output } = await outcomeOf(name);
      expect({ failed, output }).toEqual({ failed: false, output: expect.any(String) });
      expect(output).toMatch(/^Tests: .*\b[1-9]\d* passed/m);
    },
    2 * limitMs,
  );
});

describe('a planted bug is found', () => {
  test.each(planted)(
    '$patch',
    async ({ patch, finding }) => {
      const { failed, output } = await outcomeOf(patch);
      const found = findingIn(output);
      expect({ failed, found, output }).toMatchObject({
        failed: true,
        found: { problem: expect.stringMatching(finding) },
      });
      // By the model, not because the copy could not be run or did not end.
      expect(output).not.toMatch(/failed to run|SyntaxError|doesn't end|Exceeded timeout/);
      tell(`${patch}: ${found?.history ?? ''}: ${found?.problem ?? ''}`.slice(0, 500));
      tell(`  steps: ${found?.steps ?? ''}`.slice(0, 2000));
    },
    8 * limitMs,
  );
});
