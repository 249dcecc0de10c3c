/**
 * Runs the suites one after the other, prints what each took against its budget, and sums up. Its last line is
 * "N passed, N failed, N skipped". Arguments: names of suites; all of them without.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { SuiteCounts } from '../test/support/jest-reporter.ts';
import { createSandbox, removeLeftovers } from './leftovers.ts';
import { buildCheck, filesBySuite, suites, type Check, type Suite } from './suites.ts';

const root = resolve(import.meta.dirname, '..');
/** How long jest may take to end after its last test: it waits for whatever the tests left open. */
const exitGraceMs = 10_000;
const buildLimitMs = 4 * 60_000;

interface SuiteResult extends SuiteCounts {
  readonly suite: Suite;
  readonly seconds: number;
}

const running = new Set<ChildProcess>();
/** Set by a signal: what runs is killed, what it left is removed, and nothing more is started. */
let interrupted = false;

async function main(names: readonly string[]): Promise<number> {
  const unknown = names.filter((name) => !suites.some((suite) => suite.name === name));
  if (unknown.length > 0) {
    const known = suites.map(({ name }) => `'${name}'`).join(', ');
    print(`no suite '${unknown.join("', '")}'; there are ${known}`);
    return 2;
  }
  const files = filesBySuite(root);
  const build = await runCheck(buildCheck, buildLimitMs);
  const results: SuiteResult[] = [];
  for (const suite of suites) {
    if (interrupted) return 130;
    if (names.length > 0 && !names.includes(suite.name)) continue;
    results.push(await runSuite(suite, files.get(suite.name) ?? []));
  }
  if (interrupted) return 130;
  print('');
  for (const result of results) print(`${result.suite.name}: ${summary(result)}`);
  printSkips(results);
  const sum = add([build, ...results]);
  print(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
  return sum.failed > 0 || sum.passed === 0 ? 1 : 0;
}

async function runSuite(suite: Suite, files: readonly string[]): Promise<SuiteResult> {
  print(`\n== ${suite.name} (${files.length} test files, budget ${suite.budgetMinutes} min)`);
  const started = performance.now();
  const limitMs = 2 * suite.budgetMinutes * 60_000;
  const treeBefore = readdirSync(root);
  const sandbox = createSandbox();
  const parts = await Promise.all((suite.checks ?? []).map((check) => runCheck(check, limitMs)));
  if (files.length > 0 && !interrupted) {
    const leftMs = Math.max(limitMs - (performance.now() - started), 1000);
    parts.push(await runJest(files, suite.inBand, { ...sandbox.environment }, leftMs));
  }
  const leftovers = [...(await removeLeftovers(sandbox)), ...newInRepository(treeBefore)];
  for (const leftover of leftovers) print(`LEFT BEHIND ${leftover}`);
  if (leftovers.length > 0) parts.push({ ...none(), failed: 1 });
  const seconds = Math.round((performance.now() - started) / 1000);
  const result = { ...add(parts), suite, seconds };
  print(`== ${suite.name}: ${summary(result)}`);
  return result;
}

/** Some programs write into the folder that they are started in. What is found there is left for its author to see. */
function newInRepository(before: readonly string[]): string[] {
  return readdirSync(root)
    .filter((name) => !before.includes(name) && !/^(dist|dist\.new\..*|coverage)$/.test(name))
    .map((name) => `file in the repository: ${name}`);
}

async function runCheck(check: Check, limitMs: number): Promise<SuiteCounts> {
  const started = performance.now();
  let output = '';
  const child = start(check.command, process.env);
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  const end = await waitFor(child, limitMs);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  if (end === 'ok') {
    print(`ok   ${check.name}, ${seconds} s`);
    return { ...none(), passed: 1 };
  }
  print(`FAIL ${check.name}: ${end}, ${seconds} s\n${output.trimEnd()}`);
  return { ...none(), failed: 1 };
}

async function runJest(
  files: readonly string[],
  inBand: boolean,
  environment: Readonly<Record<string, string>>,
  limitMs: number,
): Promise<SuiteCounts> {
  const folder = mkdtempSync(join(tmpdir(), 'vdcsi-results-'));
  try {
    const resultsFile = join(folder, 'results.json');
    const child = start(
      [
        'scripts/jest',
        inBand ? '--runInBand' : '--maxWorkers=2',
        '--reporters',
        join(root, 'test/support/jest-reporter.ts'),
        '--runTestsByPath',
        ...files,
      ],
      { ...process.env, ...environment, TEST_RESULTS: resultsFile },
      'inherit',
    );
    const end = await waitFor(child, limitMs, () => existsSync(resultsFile));
    if (!existsSync(resultsFile)) {
      print(`FAIL jest ended without results: ${end}`);
      return { ...none(), failed: 1 };
    }
    const counts = JSON.parse(readFileSync(resultsFile, 'utf8')) as SuiteCounts;
    if (end === 'ok' || counts.failed > 0) return counts;
    print(`FAIL all tests passed, but jest did not end well: ${end}`);
    return { ...counts, failed: 1 };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function start(
  [command, ...args]: readonly string[],
  env: NodeJS.ProcessEnv,
  output: 'inherit' | 'pipe' = 'pipe',
): ChildProcess {
  if (command === undefined) throw new Error('no command');
  // A group of its own, so that a time limit ends jest's workers with it.
  const stdio: ('ignore' | 'inherit' | 'pipe')[] = ['ignore', output, output];
  const child = spawn(command, args, { cwd: root, env, detached: true, stdio });
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

/** 'ok', or why not. The child is killed at the limit, or when it does not end after it was `finished`. */
function waitFor(
  child: ChildProcess,
  limitMs: number,
  finished: () => boolean = () => false,
): Promise<string> {
  return new Promise((settle) => {
    let killedBecause: string | undefined;
    const kill = (reason: string): void => {
      killedBecause ??= reason;
      killGroup(child);
    };
    const limit = setTimeout(() => {
      kill(`killed at its time limit of ${Math.round(limitMs / 1000)} s`);
    }, limitMs);
    let finishedAt: number | undefined;
    const poll = setInterval(() => {
      if (finishedAt === undefined && finished()) finishedAt = performance.now();
      if (finishedAt !== undefined && performance.now() - finishedAt > exitGraceMs)
        kill('it did not exit after the last test: something was left open');
    }, 500);
    const end = (why: string): void => {
      clearTimeout(limit);
      clearInterval(poll);
      settle(killedBecause ?? why);
    };
    child.once('error', (error) => {
      end(error.message);
    });
    child.once('close', (code, signal) => {
      end(code === 0 ? 'ok' : `exit ${code ?? signal ?? 'unknown'}`);
    });
  });
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has ended already.
  }
}

function summary(result: SuiteResult): string {
  const { passed, failed, skipped, seconds, suite } = result;
  const budgetSeconds = suite.budgetMinutes * 60;
  const over = seconds > budgetSeconds ? ', OVER BUDGET' : '';
  return `${passed} passed, ${failed} failed, ${skipped} skipped, ${seconds} s of ${budgetSeconds} s${over}`;
}

function printSkips(results: readonly SuiteCounts[]): void {
  const reasons = new Map<string, number>();
  for (const { skipReasons } of results) {
    for (const [reason, count] of Object.entries(skipReasons)) {
      reasons.set(reason, (reasons.get(reason) ?? 0) + count);
    }
  }
  for (const [reason, count] of reasons) print(`skipped ${count}: ${reason}`);
}

function none(): SuiteCounts {
  return { passed: 0, failed: 0, skipped: 0, skipReasons: {} };
}

function add(parts: readonly SuiteCounts[]): SuiteCounts {
  const sum = none();
  for (const part of parts) {
    sum.passed += part.passed;
    sum.failed += part.failed;
    sum.skipped += part.skipped;
    for (const [reason, count] of Object.entries(part.skipReasons)) {
      sum.skipReasons[reason] = (sum.skipReasons[reason] ?? 0) + count;
    }
  }
  return sum;
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    interrupted = true;
    for (const child of running) killGroup(child);
  });
}
process.exitCode = await main(process.argv.slice(2));
