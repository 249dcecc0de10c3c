/**
 * The attacher is killed (kill -9, a real process) in the middle of attach, heal and detach of a kernel device; the next
 * one over the same state directory must end with a whole device or with none. KILLS=N kills so often in each.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  expectBlocks,
  keepWriting,
  MiB,
  waitFor,
  writeBlocks,
} from '../../src/attacher/attacher-world-contract.ts';
import type { AttacherService } from '../../src/attacher/attacher-service.ts';
import type { KernelChildInput } from '../support/attach-kernel-child.ts';
import { openKernelHarness, type KernelHarness } from '../support/attach-kernel.ts';
import type { NbdkitServer } from '../support/attach-nbdkit.ts';
import { loadModule } from '../support/guest-modules.ts';
import { countFrom } from '../support/real-driver.ts';

const kills = countFrom('KILLS', 2);
const sizeBytes = 16 * MiB;
const volumeId = 'crash';
const childPath = fileURLToPath(new URL('../support/attach-kernel-child.ts', import.meta.url));
const testLimitMs = 30_000 + kills * 20_000;

loadModule('drivers/block/nbd.ko', 'nbds_max=4 max_part=0');

/** Each child does one operation, which is bounded. */
const childMs = 60_000;

describe('an attacher of kernel devices that is killed', () => {
  let harness: KernelHarness;
  let server: NbdkitServer;

  beforeAll(async () => {
    harness = await openKernelHarness();
    server = await harness.newServer('server', sizeBytes);
    await server.start();
  });
  afterAll(async () => {
    await harness.close();
  });

  const request = (): KernelChildInput['request'] => ({
    volumeId,
    uri: server.uri(`${volumeId}#1`),
    readOnly: false,
  });

  /** Runs the operation in a process of its own; how many points to die at it passed when it got to its end. */
  async function runChild(
    operation: KernelChildInput['operation'],
    death: number,
  ): Promise<number | null> {
    const { stateDirectory, driverName } = harness;
    const input = { stateDirectory, driverName, operation, request: request(), death };
    const child = spawn(process.execPath, [childPath, JSON.stringify(input)], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, NODE_COMPILE_CACHE: join(harness.folder, 'compiled') },
    });
    let output = '';
    const limit = setTimeout(() => child.kill('SIGKILL'), childMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    await new Promise((resolve) => child.once('close', resolve));
    clearTimeout(limit);
    expect(output).toContain('go');
    const done = /done (\d+)/.exec(output)?.[1];
    return done === undefined ? null : Number(done);
  }

  /** Evenly over all points, the first among them. */
  function deaths(points: number | null): number[] {
    const count = Math.min(points ?? 0, kills);
    expect(count).toBeGreaterThan(0);
    return Array.from({ length: count }, (_, i) => 1 + Math.floor((i * (points ?? 0)) / count));
  }

  async function withNext(body: (attacher: AttacherService) => Promise<void>): Promise<void> {
    const attacher = harness.newAttacher();
    await attacher.start();
    try {
      await body(attacher);
    } finally {
      await attacher.close();
    }
  }

  async function expectNothing(): Promise<void> {
    expect(await harness.leftovers()).toEqual([]);
    expect(await readdir(join(harness.stateDirectory, 'records'))).toEqual([]);
  }

  test(
    'in attach leaves a whole device or none',
    async () => {
      const points = await runChild('attach', 0);
      await withNext(async (attacher) => {
        expect(await attacher.listDevices()).toMatchObject([{ state: 'attached', sizeBytes }]);
        await attacher.detach(volumeId);
      });
      await expectNothing();
      for (const death of deaths(points)) {
        expect({ death, done: await runChild('attach', death) }).toEqual({ death, done: null });
        await withNext(async (attacher) => {
          const devices = await attacher.listDevices();
          if (devices.length === 0) await expectNothing();
          else expect(devices).toMatchObject([{ state: 'attached', sizeBytes }]);
          const device = await attacher.attach(request());
          expect(device).toMatchObject({ state: 'attached', sizeBytes });
          await writeBlocks(device.path, 0, 1, `${death}`);
          await attacher.detach(volumeId);
        });
        await expectNothing();
      }
    },
    testLimitMs,
  );

  test(
    'in heal leaves a device that the next one heals',
    async () => {
      let path = '';
      await withNext(async (attacher) => {
        ({ path } = await attacher.attach(request()));
      });
      const writer = keepWriting(path, 20_000);
      const cut = async (): Promise<void> => {
        await server.kill();
        await server.start();
      };
      await cut();
      const points = await runChild('heal', 0);
      for (const death of deaths(points)) {
        await cut();
        await runChild('heal', death);
        const before = writer.written();
        await withNext(async (attacher) => {
          await waitFor(async () => await Promise.resolve(writer.written() > before + 5));
          expect(await attacher.getDevice(volumeId)).toMatchObject({ path, state: 'attached' });
        });
      }
      await expectBlocks(path, 0, await writer.stop(), 'keep');
      await withNext(async (attacher) => {
        await attacher.detach(volumeId);
      });
      await expectNothing();
    },
    testLimitMs,
  );

  test(
    'in detach leaves what the next one removes',
    async () => {
      const attach = async (): Promise<void> => {
        await withNext(async (attacher) => {
          await attacher.attach(request());
        });
      };
      await attach();
      const points = await runChild('detach', 0);
      await expectNothing();
      for (const death of deaths(points)) {
        await attach();
        expect({ death, done: await runChild('detach', death) }).toEqual({ death, done: null });
        await withNext(async (attacher) => {
          // The kill may have come before the detach was on record: then the device is whole.
          for (const device of await attacher.listDevices()) expect(device.state).toBe('attached');
          await attacher.detach(volumeId);
        });
        await expectNothing();
      }
    },
    testLimitMs,
  );
});
