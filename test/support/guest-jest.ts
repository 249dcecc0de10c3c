/**
 * Runs in a guest: test files, written for @jest/globals as all are, by jest's own circus and expect but without
 * jest: in a user-mode kernel, jest would take half a minute to look for its files and to compile them, and this takes
 * three seconds. All files share one process. Reports each test as it starts and ends. GUEST_TESTS=REGEXP runs only the
 * tests with such names.
 */
import { registerHooks } from 'node:module';
import { addEventHandler, getState, run, setState } from 'jest-circus';
import { report } from './uml.ts';

export interface GuestTest {
  /** Titles of the groups around it, then its own. */
  readonly titles: readonly string[];
  readonly durationMs: number;
  readonly failures: readonly string[];
}

export type GuestReport =
  | { failed: true }
  | { starting: readonly string[] }
  | { test: GuestTest }
  /** What a test has to say, passed or not. */
  | { told: string }
  /** The process ends. Errors are those that belong to no test. */
  | { finished: true; errors: readonly string[] };

const globalsUrl = new URL('guest-jest-globals.ts', import.meta.url).href;
const testTimeoutMs = 60_000;
/** How long what is being closed may take to go, before it counts as left open. */
const exitGraceMs = 3000;

const tell = (what: GuestReport): void => {
  report(what);
};

function titlesOf(test: { name: unknown; parent?: unknown }): string[] {
  const titles: string[] = [];
  for (let at: typeof test | undefined = test; at !== undefined;) {
    titles.unshift(String(at.name));
    at = at.parent as typeof test | undefined;
  }
  return titles.slice(1);
}

function textOf(error: unknown): string {
  // Circus keeps pairs of what was thrown and where the test began.
  const thrown: unknown = Array.isArray(error) ? (error[0] ?? error[1]) : error;
  if (!(thrown instanceof Error)) return String(thrown);
  const cause = thrown.cause === undefined ? '' : `\ncaused by ${textOf(thrown.cause)}`;
  return `${thrown.stack ?? thrown.message}${cause}`;
}

registerHooks({
  resolve: (specifier, context, next) =>
    specifier === '@jest/globals'
      ? { url: globalsUrl, shortCircuit: true }
      : next(specifier, context),
});
const errors: string[] = [];
process.on('uncaughtException', (error) => {
  errors.push(`uncaught: ${textOf(error)}`);
});
process.on('exit', () => {
  tell({ finished: true, errors });
});
addEventHandler((event) => {
  if (event.name === 'test_start') tell({ starting: titlesOf(event.test) });
  if (event.name !== 'test_done' && event.name !== 'test_skip' && event.name !== 'test_todo')
    return;
  const { test } = event;
  if (event.name === 'test_skip' && testNamePattern !== null) return;
  const failures = test.errors.map((error) => textOf(error));
  if (event.name !== 'test_done') failures.push('tests in a guest are not skipped');
  const titles = titlesOf(test);
  tell({ test: { titles, durationMs: test.duration ?? 0, failures } });
});

const pattern = process.env['GUEST_TESTS'];
const testNamePattern = pattern === undefined ? null : new RegExp(pattern);
setState({ ...getState(), testTimeout: testTimeoutMs, testNamePattern });
for (const file of JSON.parse(process.argv[2] ?? '[]') as string[]) {
  await import(new URL(`../../${file}`, import.meta.url).href);
}
const { unhandledErrors } = await run();
errors.push(...unhandledErrors);
const limit = setTimeout(() => {
  const left = process.getActiveResourcesInfo().filter((type) => type !== 'TTYWrap');
  errors.push(`the tests left open: ${left.join(', ')}`);
  process.exit();
}, exitGraceMs);
limit.unref();
