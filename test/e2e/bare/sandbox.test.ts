import { execFile } from 'node:child_process';
import { access, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { describeRequires } from '../../support/requires.ts';
import { until } from '../support/waiting.ts';
import { run } from './commands.ts';
import { Sandbox } from './sandbox.ts';

const told: string[] = [];
let opened: Sandbox | undefined;

async function open(): Promise<Sandbox> {
  opened = await Sandbox.open();
  return opened;
}

async function isThere(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** Whether a process bears the mark in its arguments. */
async function isRunning(mark: string): Promise<boolean> {
  return (await run(['pgrep', '-f', mark], { acceptFailure: true })) !== '';
}

describeRequires(['root', 'linux', 'path:/usr/sbin/ip', 'path:/sys/fs/cgroup'], 'Sandbox', () => {
  beforeEach(() => {
    told.length = 0;
  });

  afterEach(async () => {
    await opened?.close((line) => told.push(line));
    opened = undefined;
  });

  test('has a network, files and processes of its own, all of which go', async () => {
    const sandbox = await open();
    const seen = await run([
      ...sandbox.enter,
      ...['sh', '-c', 'ip -br address; ls /var/lib; touch /var/lib/mine /run/mine; ls /run'],
    ]);
    expect(seen).toMatch(/vdnode0.*10\.77\.1\.1\/32 10\.96\.0\.1\/32/);
    expect(seen).not.toContain('dpkg');
    expect(await isThere(join(sandbox.folder, 'lib/mine'))).toBe(true);
    expect(await isThere('/run/mine')).toBe(false);

    const mark = `98765.${process.pid}`;
    const background = `mount -t tmpfs x /var/lib; setsid sleep ${mark} >/dev/null 2>&1 </dev/null &`;
    await run([...sandbox.enter, 'sh', '-c', background]);
    await until('it sleeps', async () => ((await isRunning(`sleep ${mark}`)) ? true : undefined));
    await sandbox.close((line) => told.push(line));
    expect(told).toEqual([]);
    expect(await isRunning(`sleep ${mark}`)).toBe(false);
    expect(await isThere(sandbox.folder)).toBe(false);
    const groups = await readdir('/sys/fs/cgroup', { recursive: true });
    expect(groups.filter((path) => path.includes(sandbox.cgroup.slice(1)))).toEqual([]);
  });

  test('ends with the process that opened it, and the next one removes what it left', async () => {
    const script = `
      const { Sandbox } = await import(${JSON.stringify(join(import.meta.dirname, 'sandbox.ts'))});
      const { run } = await import(${JSON.stringify(join(import.meta.dirname, 'commands.ts'))});
      const sandbox = await Sandbox.open();
      await run([...sandbox.enter, 'sh', '-c', 'setsid sleep 87654.${process.pid} >/dev/null 2>&1 &']);
      process.stdout.write(sandbox.folder, () => process.kill(process.pid, 'SIGKILL'));`;
    const args = ['--no-warnings', '--input-type=module', '-e', script];
    const killed: unknown = await promisify(execFile)(process.execPath, args, {
      timeout: 20_000,
    }).catch((error: unknown) => error);
    const left = (killed as { stdout: string }).stdout;
    expect(killed).toMatchObject({ signal: 'SIGKILL' });
    expect(await isThere(left)).toBe(true);
    await until('nothing sleeps', async () =>
      (await isRunning(`sleep 87654.${process.pid}`)) ? undefined : true,
    );
    await open();
    expect(await isThere(left)).toBe(false);
  });
});
