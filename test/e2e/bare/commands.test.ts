import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { delay, until } from '../support/waiting.ts';
import { Daemon, run } from './commands.ts';

let folder: string;
let daemon: Daemon | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'daemon-'));
});

afterEach(async () => {
  await daemon?.stop(0);
  await rm(folder, { recursive: true });
});

function start(script: string): Daemon {
  daemon = new Daemon('service', ['sh', '-c', script], folder);
  daemon.start();
  return daemon;
}

const isThere = async (path: string): Promise<boolean> =>
  (await run(['ls', path], { acceptFailure: true })) !== '';

describe('Daemon', () => {
  test('has not stopped before the last process of its group', async () => {
    const done = join(folder, 'done');
    const child = `trap 'sleep 0.4; touch ${done}; exit' TERM; touch ${folder}/up; while :; do sleep 0.05; done`;
    // What was started ends at once, and its child takes a while.
    const service = start(`sh -c "${child.replaceAll('"', '\\"')}" & wait`);
    await service.untilReady(10_000, () => isThere(join(folder, 'up')));
    await service.stop();
    expect(await isThere(done)).toBe(true);
  });

  test('is killed when it does not hear', async () => {
    const service = start(`trap '' TERM; touch ${folder}/up; while :; do sleep 0.05; done`);
    await service.untilReady(10_000, () => isThere(join(folder, 'up')));
    await service.stop(200);
    expect(service.ending).toContain('SIGKILL');
  });

  test('that ends instead of getting ready tells its last words', async () => {
    const service = start('echo "no such flag" >&2; exit 3');
    const ready = service.untilReady(10_000, () => Promise.resolve(false));
    await expect(ready).rejects.toThrow(/^service: it ended with 3:\nno such flag/);
  });

  test('that takes too long tells what it said', async () => {
    const service = start('echo "still thinking"; exec sleep 60');
    const ready = service.untilReady(300, () => Promise.resolve(false));
    await expect(ready).rejects.toThrow(/^service: not ready within 0.3 s:\nstill thinking/);
  });

  test('is started again when it is to be kept up, until it is stopped', async () => {
    const script = `echo life >>${folder}/lives; [ -e ${folder}/last ] && exec sleep 60; touch ${folder}/last`;
    daemon = new Daemon('service', ['sh', '-c', script], folder, true);
    daemon.start();
    const lives = async (): Promise<number> =>
      (await readFile(join(folder, 'lives'), 'utf8').catch(() => '')).split('\n').length - 1;
    await until('it lives again', async () => ((await lives()) === 2 ? true : undefined));
    await daemon.stop();
    await delay(1000);
    expect(await lives()).toBe(2);
  });

  test('can be started again, and an earlier end is forgotten', async () => {
    const service = start('exec sleep 60');
    await service.stop();
    service.start();
    await delay(100);
    expect(service.ending).toBeUndefined();
  });
});
