/**
 * What kind makes of our configurations, without a docker: kind itself reads and checks them, and the `docker run` of
 * each node goes to a stand-in that writes it down and fails.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect } from '@jest/globals';
import { testRequires } from '../../support/requires.ts';

const kind = kindBinary();
let folder = '';

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdcsi-kind-test-'));
  const answers = [
    '#!/bin/sh',
    `echo "$@" >>'${folder}/log'`,
    'case "$1" in',
    `info) echo '{"CgroupDriver":"systemd","CgroupVersion":"2","MemoryLimit":true,"PidsLimit":true,"CPUShares":true}' ;;`,
    'run) echo "a stand-in runs nothing" >&2; exit 1 ;;',
    'esac',
  ];
  writeFileSync(join(folder, 'docker'), `${answers.join('\n')}\n`, { mode: 0o755 });
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

const cases = [
  { file: 'cluster.yaml', nodes: ['test-control-plane', 'test-worker'] },
  { file: 'one-node.yaml', nodes: ['test-control-plane'] },
];

for (const { file, nodes } of cases) {
  testRequires([`path:${kind}`], `${file} gives nodes that see the machine's devices`, () => {
    const run = create(join(import.meta.dirname, file));
    expect(run).toContain('a stand-in runs nothing');
    const runs = readFileSync(join(folder, 'log'), 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('run '));
    expect(runs.map((line) => / --name (\S+)/.exec(line)?.[1]).sort()).toEqual(nodes);
    for (const line of runs) {
      expect(line).toContain(' --privileged ');
      expect(line).toContain(' --volume=/dev:/dev ');
      const targets = Array.from(
        line.matchAll(/ --volume[ =]\S+?:([^\s:]+)/g),
        (match) => match[1],
      );
      expect(targets).toEqual([...new Set(targets)]);
    }
  });
}

testRequires(
  [`path:${kind}`],
  'a misspelt field is refused: what passes here was understood',
  () => {
    const config = readFileSync(join(import.meta.dirname, 'one-node.yaml'), 'utf8');
    const file = join(folder, 'misspelt.yaml');
    writeFileSync(file, config.replace('containerPath', 'containerPaht'));
    expect(create(file)).toMatch(/containerPaht not found/);
  },
);

/** All that it prints: it never succeeds. */
function create(config: string): string {
  const env = { ...process.env, PATH: `${folder}:${process.env['PATH'] ?? ''}` };
  const args = ['create', 'cluster', '--name', 'test', '--config', config];
  const run = spawnSync(kind, args, { env, timeout: 60_000, encoding: 'utf8' });
  expect(run.status).not.toBe(0);
  return run.stdout + run.stderr;
}

function kindBinary(): string {
  const build = join(import.meta.dirname, '../tools/build');
  const run = spawnSync(build, ['--cached', 'kind'], { timeout: 20_000, encoding: 'utf8' });
  return run.status === 0 ? join(run.stdout.trim(), 'kind') : `${build} kind`;
}
