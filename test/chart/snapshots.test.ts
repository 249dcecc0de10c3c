/**
 * What the chart makes of values, compared with what it made before: the default in full, all others as their
 * difference from it. `scripts/chart --update` accepts what is new.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { describeRequires } from '../support/requires.ts';
import { render, valuesFile } from './render.ts';

const others = ['full', 'fuse', 'small', 'existing-ca'];

describeRequires(['helm', 'tool:diff'], 'the chart', () => {
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'chart-'));
    writeFileSync(join(folder, 'default'), render());
  });

  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  test('renders its default values as before', () => {
    expectAsBefore('default.yaml', readFileSync(join(folder, 'default'), 'utf8'));
  });

  test.each(others)('renders the values "%s" as before', (name) => {
    writeFileSync(join(folder, name), render({ files: [valuesFile(name)] }));
    const args = ['--unified=1', '--show-function-line=^  name:', 'default', name];
    const { stdout } = spawnSync('diff', args, { cwd: folder, encoding: 'utf8', timeout: 20_000 });
    // Without line numbers, which would change with every line that is added somewhere above.
    const difference = stdout.replace(/^(---|\+\+\+) .*\n/gm, '').replace(/^@@ .* @@/gm, '@@');
    expectAsBefore(`${name}.diff`, difference);
  });
});

function expectAsBefore(name: string, text: string): void {
  const path = join(import.meta.dirname, 'snapshots', name);
  if (process.env['UPDATE_CHART_SNAPSHOTS'] === '1') writeFileSync(path, text);
  expect(text).toBe(readFileSync(path, 'utf8'));
}
