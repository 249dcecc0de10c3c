import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { describeRequires } from '../test/support/requires.ts';
import { createSandbox, removeLeftovers, type Sandbox } from './leftovers.ts';

function runIn({ environment }: Sandbox, script: string): string {
  const run = spawnSync('sh', ['-c', script], {
    env: { ...process.env, ...environment },
    encoding: 'utf8',
    timeout: 10_000,
  });
  expect(run.stderr).toBe('');
  return run.stdout.trim();
}

describeRequires(['linux'], 'removeLeftovers', () => {
  test('has nothing to say about a command that cleaned up', async () => {
    const sandbox = createSandbox();
    runIn(sandbox, 'f=$(mktemp); rm "$f"');
    expect(await removeLeftovers(sandbox)).toEqual([]);
    expect(existsSync(sandbox.folder)).toBe(false);
  });

  test('waits for processes that are about to end', async () => {
    const sandbox = createSandbox();
    runIn(sandbox, 'sleep 0.5 >/dev/null 2>&1 &');
    expect(await removeLeftovers(sandbox)).toEqual([]);
  });

  test('finds and removes files', async () => {
    const sandbox = createSandbox();
    runIn(sandbox, 'mkdir "$TMPDIR/folder"; echo x >"$TMPDIR/folder/file"');
    expect(await removeLeftovers(sandbox)).toEqual(['temporary file folder']);
    expect(existsSync(sandbox.folder)).toBe(false);
  });

  test('finds and kills a daemon that left its group, and no other process', async () => {
    const sandbox = createSandbox();
    const other = spawn('sleep', ['60']);
    try {
      const pid = runIn(sandbox, 'setsid sleep 60 >/dev/null 2>&1 & echo $!');
      expect(await removeLeftovers(sandbox)).toEqual([`process ${pid}: sleep 60`]);
      expect(isRunning(Number(pid))).toBe(false);
      expect(other.exitCode ?? other.signalCode).toBeNull();
    } finally {
      other.kill('SIGKILL');
    }
  });
});

describeRequires(['root', 'loop', 'tool:mkfs.ext4'], 'removeLeftovers as root', () => {
  test('undoes a loop device and what is mounted from it', async () => {
    const sandbox = createSandbox();
    const mountpoint = join(sandbox.folder, 'mounted');
    mkdirSync(mountpoint);
    writeFileSync(join(sandbox.folder, 'image'), Buffer.alloc(4 * 1024 * 1024));
    const device = runIn(
      sandbox,
      'cd "$TMPDIR" && mkfs.ext4 -q image && device=$(losetup -f --show image) && mount "$device" mounted && echo "$device"',
    );
    expect(await removeLeftovers(sandbox)).toEqual([
      `loop device ${device}`,
      `mount ${mountpoint}`,
      'temporary file image',
      'temporary file mounted',
    ]);
    expect(existsSync(sandbox.folder)).toBe(false);
    expect(existsSync(`/sys/block/${device.slice('/dev/'.length)}/loop`)).toBe(false);
  });
});

describe('a sandbox', () => {
  test('is new each time', async () => {
    const [one, two] = [createSandbox(), createSandbox()];
    expect(one.folder).not.toBe(two.folder);
    expect(one.environment['TMPDIR']).toBe(one.folder);
    await removeLeftovers(one);
    await removeLeftovers(two);
  });
});

/** A killed process that nobody has waited for yet is a zombie: it does not run. */
function isRunning(pid: number): boolean {
  const state = spawnSync('ps', ['-o', 'state=', '-p', String(pid)], { encoding: 'utf8' }).stdout;
  return state.trim() !== '' && !state.startsWith('Z');
}
