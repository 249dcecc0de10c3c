/** The part of the attacher's contract about servers that die, stall, refuse or stay away, and attachers that restart. */
import { expect, test } from '@jest/globals';
import type { ContractTraits } from './attacher-contract.ts';
import {
  delay,
  expectBlocks,
  keepWriting,
  run,
  waitFor,
  writeBlocks,
  type ContractWorld,
} from './attacher-world-contract.ts';

export function healingContract(world: ContractWorld, { stallMs }: ContractTraits): void {
  test('waits for a server that was killed under writes', async () => {
    await world.withDevice('wait', async (device, server) => {
      const { path } = device;
      const writer = keepWriting(path, 2000);
      await delay(300);
      await server.kill();
      const before = writer.written();
      await delay(500);
      const waiting = await world.attacher.getDevice('wait');
      expect(waiting).toEqual({ ...device, state: 'waiting', reason: expect.stringMatching(/./) });
      expect(await world.attacher.listDevices()).toEqual([waiting]);
      await server.start();
      await waitFor(async () => await Promise.resolve(writer.written() > before + 10));
      expect(await world.attacher.getDevice('wait')).toMatchObject({
        state: 'attached',
        reason: '',
      });
      const written = await writer.stop();
      expect(written).toBeGreaterThan(before);
      await expectBlocks(path, 0, written, 'keep');
    });
  });

  test('reports an export that is refused as broken, and detaches it in time', async () => {
    await world.withDevice('fenced', async ({ path }, server) => {
      await writeBlocks(path, 0, 1, 'fenced');
      await server.kill();
      await server.start('fenced#2');
      const device = await world.attacher.getDevice('fenced');
      expect(device).toMatchObject({ path, state: 'broken' });
      expect(device.reason).toContain('refused');
      await world.detachInTime('fenced');
    });
  });

  test.each(['killed', 'paused'])('detaches in time from a server that is %s', async (how) => {
    const volumeId = `gone-${how}`;
    await world.withDevice(volumeId, async ({ path }, server) => {
      const writer = keepWriting(path, 2000);
      await delay(100);
      if (how === 'killed') await server.kill();
      else server.pause();
      await delay(100);
      await world.detachInTime(volumeId);
      // The blocked write fails now, and so the device can go.
      await expect(writer.stop()).rejects.toThrow();
      await waitFor(async () => (await world.harness.leftovers()).length === 0);
    });
  });

  test('is restarted without a trace in the I/O', async () => {
    await world.withDevice('restart', async (device) => {
      const writer = keepWriting(device.path, 2000);
      const closed = world.attacher;
      await world.replaceAttacher();
      await expect(closed.getDevice('restart')).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
      const before = writer.written();
      await expect(world.attacher.getDevice('restart')).rejects.toMatchObject({
        code: 'UNAVAILABLE',
      });
      await world.attacher.start();
      expect(await world.attacher.listDevices()).toEqual([device]);
      await waitFor(async () => await Promise.resolve(writer.written() > before));
      const { uri } = device;
      expect(await world.attacher.attach({ volumeId: 'restart', uri, readOnly: false })).toEqual(
        device,
      );
      await expectBlocks(device.path, 0, await writer.stop(), 'keep');
    });
  });

  test('waits for a server that stalls', async () => {
    await world.withDevice('stall', async ({ path }, server) => {
      const writer = keepWriting(path, 2000);
      await delay(100);
      server.pause();
      await delay(stallMs / 2);
      const before = writer.written();
      // Bounded, whatever the server does.
      const askedMs = performance.now();
      expect(await world.attacher.getDevice('stall')).toMatchObject({ path });
      expect(performance.now() - askedMs).toBeLessThan(5000);
      await delay(stallMs / 2);
      expect(writer.written()).toBe(before);
      server.resume();
      await waitFor(async () => await Promise.resolve(writer.written() > before + 10));
      await waitFor(async () => (await world.attacher.getDevice('stall')).state === 'attached');
      await expectBlocks(path, 0, await writer.stop(), 'keep');
    });
  });

  test('gives up a server that stays away', async () => {
    await world.replaceAttacher({ reconnectDelaySeconds: 3 });
    await world.attacher.start();
    try {
      await world.withDevice('away', async ({ path }, server) => {
        const writer = keepWriting(path, 2000);
        await delay(100);
        await server.kill();
        await delay(500);
        expect(await world.attacher.getDevice('away')).toMatchObject({ path, state: 'waiting' });
        await waitFor(async () => (await world.attacher.getDevice('away')).state === 'broken');
        expect((await world.attacher.getDevice('away')).reason).not.toBe('');
        await expect(writer.stop()).rejects.toThrow();
        await expect(
          writeBlocks(path, 0, 1, 'late').then(() => run('sync', [path])),
        ).rejects.toThrow();
        // It is too late for this device, but not for the volume.
        await server.start();
        await delay(1500);
        const uri = server.uri('away#1');
        const request = { volumeId: 'away', uri, readOnly: false };
        expect(await world.attacher.attach(request)).toMatchObject({ path, state: 'broken' });
        await world.detachInTime('away');
        const again = await world.attacher.attach(request);
        expect(again.state).toBe('attached');
        await writeBlocks(again.path, 0, 16, 'again');
        await run('sync', [again.path]);
        await expectBlocks(again.path, 0, 16, 'again');
      });
    } finally {
      await world.replaceAttacher();
      await world.attacher.start();
    }
  });
}
