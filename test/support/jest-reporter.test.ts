import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';

const root = resolve(import.meta.dirname, '../..');
let folder: string;

const sample = `
import net from 'node:net';
import { expect, test } from '@jest/globals';
import { describeRequires, testRequires } from '${root}/test/support/requires.ts';
test('passes', () => {});
test('fails', () => { expect(1).toBe(2); });
test.skip('is skipped in silence', () => {});
testRequires(['tool:no-such-tool'], 'wants a tool', () => {});
describeRequires(['path:/no/such/path'], 'wants a path', () => { test('one', () => {}); test('two', () => {}); });
test('leaves a server', async () => { await new Promise((done) => net.createServer().listen(0, '127.0.0.1', done)); });
`;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdcsi-reporter-'));
  const { jsc } = JSON.parse(readFileSync(join(root, '.swcrc'), 'utf8')) as { jsc: object };
  const swc = [join(root, 'node_modules/@swc/jest/index.js'), { jsc, module: { type: 'es6' } }];
  const config = {
    extensionsToTreatAsEsm: ['.ts'],
    transform: { '^.+\\.ts$': swc },
    testEnvironment: join(root, 'test/support/jest-environment.ts'),
    reporters: [join(root, 'test/support/jest-reporter.ts')],
    testRegex: 'sample.test.ts',
    cacheDirectory: join(folder, 'cache'),
  };
  writeFileSync(join(folder, 'jest.config.json'), JSON.stringify(config));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  writeFileSync(join(folder, 'sample.test.ts'), sample);
});

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

function runSample(environment: Record<string, string>): { output: string; counts: unknown } {
  const results = join(folder, 'results.json');
  const jest = join(root, 'node_modules/jest/bin/jest.js');
  const run = spawnSync(process.execPath, [jest, '--runInBand', '--forceExit'], {
    cwd: folder,
    env: {
      ...process.env,
      NODE_OPTIONS: '--experimental-vm-modules --no-warnings',
      ...environment,
      TEST_RESULTS: results,
    },
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect(run.status).toBe(1);
  return {
    output: run.stdout + run.stderr,
    counts: JSON.parse(readFileSync(results, 'utf8')) as unknown,
  };
}

test('counts everything, tells reasons and finds what was left open', () => {
  const { output, counts } = runSample({ REQUIRE_TOOLS: '0' });
  // Failed: the failing test, the silent skip, and the file for its open server.
  expect(counts).toEqual({
    passed: 2,
    failed: 3,
    skipped: 3,
    skipReasons: { 'needs the tool no-such-tool': 1, 'needs /no/such/path': 2 },
  });
  expect(output).toContain('SKIP wants a tool: needs the tool no-such-tool\n');
  expect(output).toContain('SKIP wants a path > one: needs /no/such/path\n');
  expect(output).toContain('SKIP is skipped in silence: FAILED: skipped without a reason\n');
  expect(output).toContain('left open: 1 TCPServerWrap');
  expect(output).toContain('Expected: 2');
}, 90_000);

test('a missing tool fails when tools are required, a missing path does not', () => {
  const { output, counts } = runSample({ REQUIRE_TOOLS: '1' });
  expect(counts).toMatchObject({ failed: 4, skipped: 2 });
  expect(output).toContain('REQUIRE_TOOLS=1, but this test needs the tool no-such-tool');
}, 90_000);
