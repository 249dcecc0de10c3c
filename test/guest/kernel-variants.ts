/** The kernel strategy as it runs on old kernels, which keep no identifiers, and with several connections. */
import { describe, expect, test } from '@jest/globals';
import {
  delay,
  expectBlocks,
  keepWriting,
  MiB,
  run,
  waitFor,
  writeBlocks,
} from '../../src/attacher/attacher-world-contract.ts';
import type { Device } from '../../src/volumes/device-service.ts';
import {
  boundDevices,
  openKernelHarness,
  withNbdControl,
  type KernelHarness,
} from '../support/attach-kernel.ts';
import { loadModule } from '../support/guest-modules.ts';

const sizeBytes = 16 * MiB;

loadModule('drivers/block/nbd.ko', 'nbds_max=4 max_part=0');

async function withHarness(
  settings: Parameters<typeof openKernelHarness>[0],
  body: (harness: KernelHarness) => Promise<void>,
): Promise<void> {
  const harness = await openKernelHarness(settings);
  try {
    await body(harness);
  } finally {
    await harness.close();
  }
}

describe('kernel NBD devices without identifiers', () => {
  test('are made, healed, found again and removed', async () => {
    await withHarness({ identifiers: false }, async (harness) => {
      const server = await harness.newServer('server', sizeBytes);
      await server.start();
      let attacher = harness.newAttacher();
      await attacher.start();
      const attach = (volumeId: string): Promise<Device> =>
        attacher.attach({ volumeId, uri: server.uri(`${volumeId}#1`), readOnly: false });
      const [one, two] = await Promise.all([attach('one'), attach('two')]);
      expect(one.path).not.toBe(two.path);
      expect((await boundDevices()).map(({ backend }) => backend)).toEqual(['', '']);

      // Found by another attacher, which heals what it did not connect.
      const writer = keepWriting(one.path, 2000);
      await attacher.close();
      attacher = harness.newAttacher();
      await attacher.start();
      await server.kill();
      await delay(200);
      const before = writer.written();
      await server.start();
      await waitFor(async () => await Promise.resolve(writer.written() > before + 10));
      await expectBlocks(one.path, 0, await writer.stop(), 'keep');
      await waitFor(async () =>
        (await attacher.listDevices()).every(({ state }) => state === 'attached'),
      );

      await attacher.detach('one');
      expect(await attacher.getDevice('two')).toMatchObject({ path: two.path, state: 'attached' });
      await run('dd', [`if=${two.path}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct']);
      await attacher.detach('two');
      expect(await harness.leftovers()).toEqual([]);
      await attacher.close();
    });
  });

  test('are not taken for our own when another took their index', async () => {
    await withHarness({ identifiers: false }, async (harness) => {
      await withHarness({}, async (others) => {
        const server = await harness.newServer('server', sizeBytes);
        await server.start();
        const request = { volumeId: 'mine', uri: server.uri('mine#1'), readOnly: false };
        const attacher = harness.newAttacher();
        await attacher.start();
        const { path } = await attacher.attach(request);
        await attacher.close();
        // As an administrator does, or a reboot that nobody noticed.
        await withNbdControl((control) =>
          control.disconnect(Number(path.slice('/dev/nbd'.length))),
        );
        const other = others.newAttacher();
        await other.start();
        expect(await other.attach({ ...request, volumeId: 'other' })).toMatchObject({ path });
        const again = harness.newAttacher();
        await again.start();
        expect(await again.getDevice('mine')).toMatchObject({ state: 'broken' });
        await again.detach('mine');
        expect(await other.getDevice('other')).toMatchObject({ state: 'attached' });
        await run('dd', [`if=${path}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct']);
        await other.detach('other');
        await again.close();
        await other.close();
      });
    });
  });
});

describe('kernel NBD devices with several connections', () => {
  test('are healed on all of them', async () => {
    await withHarness({ connections: 4 }, async (harness) => {
      const server = await harness.newServer('server', sizeBytes);
      await server.start();
      const attacher = harness.newAttacher();
      await attacher.start();
      const uri = server.uri('several#1');
      const { path } = await attacher.attach({ volumeId: 'several', uri, readOnly: false });
      for (let round = 0; round < 2; round++) {
        await writeBlocks(path, 0, 1024, `round ${round}`);
        await run('sync', [path]);
        await server.kill();
        await delay(200);
        await server.start();
        await waitFor(async () => (await attacher.getDevice('several')).state === 'attached');
        const writers = [0, 1, 2, 3].map(async (part) => {
          await writeBlocks(path, part * 256, 256, `after ${round}`);
        });
        await Promise.all(writers);
        await run('sync', [path]);
        await expectBlocks(path, 0, 1024, `after ${round}`);
      }
      await attacher.detach('several');
      expect(await harness.leftovers()).toEqual([]);
      await attacher.close();
    });
  });
});
