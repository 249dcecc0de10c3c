import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { describeRequires } from '../test/support/requires.ts';

/** A machine with next to nothing on it: a folder of programs that is the whole PATH. */
let programs: string;

beforeEach(() => {
  programs = mkdtempSync(join(tmpdir(), 'vdcsi-programs-'));
  for (const name of ['sh', 'dirname', 'tr', 'uname']) link(name, `/usr/bin/${name}`);
  // Whoever calls these has changed the machine.
  for (const name of ['apt-get', 'sudo', 'npm']) fake(name, 'touch "$0.called"');
  fake('id', 'echo 0');
});

afterEach(() => {
  rmSync(programs, { recursive: true, force: true });
});

function link(name: string, target: string): void {
  symlinkSync(target, join(programs, name));
}

function fake(name: string, script: string): void {
  writeFileSync(join(programs, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(programs, name), 0o755);
}

interface Outcome {
  readonly status: number | null;
  readonly output: string;
  readonly changes: string[];
}

function installMissing(set: string, environment: Record<string, string> = {}): Outcome {
  const run = spawnSync('/bin/sh', [join(import.meta.dirname, 'install-missing'), set], {
    env: { PATH: programs, ...environment },
    encoding: 'utf8',
    timeout: 60_000,
  });
  const changes = ['apt-get', 'sudo', 'npm'].filter((name) =>
    existsSync(join(programs, `${name}.called`)),
  );
  return { status: run.status, output: run.stdout + run.stderr, changes };
}

describeRequires(['linux'], 'install-missing', () => {
  test('NO_INSTALL=1 lists what is missing and touches nothing', () => {
    const outcome = installMissing('test', { NO_INSTALL: '1' });
    expect(outcome).toMatchObject({ status: 1, changes: [] });
    expect(outcome.output).toMatch(/Debian packages: .*\bnodejs\b.*\bfio\b/);
    expect(outcome.output).toContain('npm packages: those of package-lock.json');
    expect(outcome.output).toContain('nothing was installed');
  });

  test('NO_INSTALL=1 goes on where only tools are missing', () => {
    link('node', process.execPath);
    const outcome = installMissing('test', { NO_INSTALL: '1' });
    expect(outcome).toMatchObject({ status: 0, changes: [] });
    expect(outcome.output).toMatch(/Debian packages: .*\bfio\b/);
    expect(outcome.output).not.toContain('nodejs');
  });

  test('each set asks for its own packages', () => {
    link('node', process.execPath);
    const outcome = installMissing('e2e', { NO_INSTALL: '1' });
    expect(outcome.output).toMatch(/Debian packages: .*\betcd-server\b.*\bbuildah\b/);
    expect(outcome.output).not.toMatch(/\bfio\b|\bqemu/);
  });

  test('the demo without root tells the sudo line and changes nothing', () => {
    fake('id', 'echo 1000');
    const outcome = installMissing('demo');
    expect(outcome).toMatchObject({ status: 1, changes: [] });
    expect(outcome.output).toContain('  sudo make demo\n');
    expect(outcome.output).toContain('  make demo DEMO=nbd\n');
  });

  test('DEMO=nbd asks for Node alone', () => {
    const outcome = installMissing('demo', { DEMO: 'nbd', NO_INSTALL: '1' });
    expect(outcome).toMatchObject({ status: 1, changes: [] });
    expect(outcome.output).toContain('Debian packages: nodejs \n');
  });

  test('the tests without root name the line that would install, and stop without Node', () => {
    fake('id', 'echo 1000');
    const outcome = installMissing('test');
    expect(outcome).toMatchObject({ status: 1, changes: [] });
    expect(outcome.output).toMatch(/sudo apt-get install -y --no-install-recommends nodejs .*fio/);
  });

  test('a package that does not install is tried again with new lists, then fails', () => {
    link('node', process.execPath);
    fake('apt-get', 'echo "$1" >>"$0.log"; echo "E: no such package" >&2; exit 100');
    const outcome = installMissing('test');
    expect(outcome.status).toBe(100);
    expect(outcome.output).toContain('E: no such package');
    expect(readFileSync(join(programs, 'apt-get.log'), 'utf8')).toBe('install\nupdate\ninstall\n');
  });
});
