/**
 * The attacher is killed (kill -9, a real process) in the middle of attach, detach and resize; the next one over
 * the same state directory must end with a whole device or with none, and serve every call again.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openFuseHarness, type FuseHarness } from '../support/attach-fuse.ts';
import type { NbdkitServer } from '../support/attach-nbdkit.ts';
import { describeRequires } from '../support/requires.ts';

const MiB = 1024 * 1024;
const volumeId = 'crash';
const childPath = fileURLToPath(new URL('../support/attach-child.ts', import.meta.url));

/** Where the process dies: at a step, or so many milliseconds after it began. */
type Death = string | number;
const deaths: Record<'attach' | 'detach' | 'resize', Death[]> = {
  attach: ['before:losetup', 'after:losetup', 1, 6, 12, 20, 30, 45],
  detach: ['before:blockdev', 'before:losetup', 'after:losetup', 2, 8, 20, 40],
  resize: ['before:stat', 'before:losetup', 'after:losetup', 2, 5, 9, 14],
};

describeRequires(
  ['root', 'linux', 'fuse', 'loop', 'tool:nbdkit', 'tool:qemu-storage-daemon'],
  'an attacher that is killed',
  () => {
    let harness: FuseHarness;
    let server: NbdkitServer;
    let sizeBytes = 16 * MiB;

    beforeAll(async () => {
      harness = await openFuseHarness();
      server = await harness.newServer('server', sizeBytes);
      await server.start();
    });
    afterAll(async () => {
      await harness.close();
    });

    const request = (): { volumeId: string; uri: string; readOnly: boolean } => ({
      volumeId,
      uri: server.uri(volumeId),
      readOnly: false,
    });

    /** Runs the operation in a process of its own that dies, and tells whether it got to the end before. */
    async function crash(operation: string, death: Death): Promise<boolean> {
      const json = JSON.stringify({ ...request(), sizeBytes });
      const args = [childPath, harness.stateDirectory, operation, json];
      if (typeof death === 'string') args.push(death);
      const child = spawn(process.execPath, args, {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, NODE_OPTIONS: '--no-warnings' },
      });
      let output = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        output += text;
        if (text.includes('go') && typeof death === 'number')
          setTimeout(() => child.kill('SIGKILL'), death);
      });
      await new Promise((resolve) => child.once('close', resolve));
      expect(output).toContain('go');
      return output.includes('done');
    }

    async function expectNothing(): Promise<void> {
      expect(await harness.leftovers()).toEqual([]);
      expect(await readdir(join(harness.stateDirectory, 'fuse'))).toEqual([]);
      expect(await readdir(join(harness.stateDirectory, 'records'))).toEqual([]);
    }

    test.each(deaths.attach)('in attach, at %s, is cleaned up after', async (death) => {
      await crash('attach', death);
      const attacher = harness.newAttacher();
      await attacher.start();
      const devices = await attacher.listDevices();
      if (devices.length === 0) await expectNothing();
      else expect(devices).toMatchObject([{ state: 'attached', sizeBytes }]);
      expect(await attacher.attach(request())).toMatchObject({ state: 'attached', sizeBytes });
      await attacher.detach(volumeId);
      await attacher.close();
      await expectNothing();
    });

    test.each(deaths.detach)('in detach, at %s, is completed after', async (death) => {
      const first = harness.newAttacher();
      await first.start();
      await first.attach(request());
      await first.close();
      await crash('detach', death);
      const attacher = harness.newAttacher();
      await attacher.start();
      // The kill may have come before the detach was on record: then the device is whole.
      for (const device of await attacher.listDevices()) expect(device.state).toBe('attached');
      await attacher.detach(volumeId);
      await attacher.close();
      await expectNothing();
    });

    test.each(deaths.resize)('in resize, at %s, is repeated after', async (death) => {
      const first = harness.newAttacher();
      await first.start();
      const { path } = await first.attach(request());
      await first.close();
      sizeBytes += 16 * MiB;
      await server.setSizeBytes(sizeBytes);
      await crash('resize', death);
      const attacher = harness.newAttacher();
      await attacher.start();
      expect(await attacher.getDevice(volumeId)).toMatchObject({ path, state: 'attached' });
      expect(await attacher.resize(volumeId, sizeBytes)).toMatchObject({ path, sizeBytes });
      await attacher.detach(volumeId);
      await attacher.close();
      await expectNothing();
    });
  },
);
