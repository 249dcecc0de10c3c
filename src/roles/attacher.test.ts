/** The attacher's role: that a node's devices have one owner. What it does with them is tested in src/attacher. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockDirectory } from '../volumedriver/disk/directory-lock.ts';
import { runAttacher } from './attacher.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'attacher-role-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

test('does not touch the devices of another one, such as that of a pod which still ends', async () => {
  const lock = lockDirectory(directory, 'process 4711');
  const stop = new AbortController();
  const running = runAttacher(
    {
      listen: { kind: 'unix', path: join(directory, 'attacher.sock') },
      stateDirectory: directory,
      driverName: 'csi.volumedriver.io',
      logLevel: 'error',
      reconnectDelaySeconds: 1,
      strategy: 'auto',
      connections: 1,
      metrics: null,
    },
    '0',
    stop.signal,
  );
  setTimeout(() => {
    stop.abort();
  }, 2000).unref();
  await expect(running).rejects.toMatchObject({
    code: 'VOLUME_IN_USE',
    message: expect.stringContaining('process 4711'),
  });
  expect(await readdir(directory)).toEqual(['lock']);
  lock.release();
});
