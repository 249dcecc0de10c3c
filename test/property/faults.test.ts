/** What an engine does while its disk or its backend fails for longer than a moment, and afterwards. */
import { describe, expect, it } from '@jest/globals';
import type { BlockDevice } from '../../src/volumes/block-device.ts';
import { EngineFixture, StillClock } from '../support/engine-fixture.ts';
import { FaultyStore } from '../support/faulty-store.ts';
import { settle } from '../support/model-lives.ts';
import { SimulatedDisk } from '../support/simulated-disk.ts';

const mib = 2 ** 20;
const clusterBytes = 4096;

interface World {
  readonly fixture: EngineFixture;
  readonly store: FaultyStore;
  readonly disk: SimulatedDisk;
  readonly device: BlockDevice;
  readonly id: string;
}

async function open(capacityBytes = Infinity): Promise<World> {
  const disk = new SimulatedDisk({ seed: 1, capacityBytes });
  let store: FaultyStore | undefined;
  const fixture = await EngineFixture.open({
    disk,
    clock: new StillClock(), // of the next life as well
    engine: { reserveBytes: 20 * mib }, // recovery may copy an object
    wrapStore: (inner) => (store = new FaultyStore(inner)),
  });
  if (store === undefined) throw new Error('the fixture has a store');
  const { device, id } = await fixture.createDevice('v', 64 * mib);
  return { fixture, store, disk, device, id };
}

function filled(byte: number, clusters = 1): Buffer {
  return Buffer.alloc(clusters * clusterBytes, byte);
}

async function readByte(device: BlockDevice, cluster: number): Promise<number | undefined> {
  const bytes = Buffer.concat(await device.read(cluster * clusterBytes, clusterBytes));
  expect(bytes.equals(Buffer.alloc(clusterBytes, bytes[0]))).toBe(true);
  return bytes[0];
}

/** Lets the clock end whatever waits for it, so often that maintenance and uploads get through. */
async function pass(fixture: EngineFixture, times = 5): Promise<void> {
  for (let i = 0; i < times; i++) {
    await settle();
    fixture.clock.wakeAll();
  }
  await settle();
}

describe('a failed sync', () => {
  it.each(['EIO', 'ENOSPC'] as const)(
    'with %s fails the flush, and those after it until the volume was recovered',
    async (errno) => {
      const { fixture, disk, device, id } = await open();
      await device.write(0, filled(1), { fua: true });
      await device.write(clusterBytes, filled(2), { fua: false });
      disk.fail({ kind: 'sync', errno });
      await expect(device.flush()).rejects.toMatchObject({ code: 'HALTED' });
      await expect(device.flush()).rejects.toMatchObject({ code: 'HALTED' });
      await expect(device.write(0, filled(9), { fua: false })).rejects.toMatchObject({
        code: 'HALTED',
      });
      expect(device.revoked.aborted).toBe(true);
      const again = await fixture.openDevice(id);
      expect(await readByte(again, 0)).toBe(1);
      expect([0, 2]).toContain(await readByte(again, 1));
      await again.write(0, filled(3), { fua: true });
      const next = await fixture.crash('power');
      expect(await readByte(await next.openDevice(id), 0)).toBe(3);
      await next.close();
    },
  );

  it('never lets a flush resolve whose bytes a power cut takes', async () => {
    for (let nth = 1; nth <= 4; nth++) {
      const { fixture, disk, device, id } = await open();
      disk.fail({ kind: 'sync', errno: 'EIO', nth });
      let flushed = 0;
      try {
        for (let i = 1; i <= 4; i++) {
          await device.write(0, filled(i), { fua: true });
          flushed = i;
        }
      } catch {
        // Expected: what was flushed until then is what counts.
      }
      const next = await fixture.crash('power');
      expect(await readByte(await next.openDevice(id), 0)).toBeGreaterThanOrEqual(flushed);
      await next.close();
    }
  });
});

describe('a backend that takes nothing', () => {
  it('makes no snapshot synced, and holds up neither writes nor flushes', async () => {
    const { fixture, store, device, id } = await open();
    await device.write(0, filled(1), { fua: false });
    const release = store.blockPuts((key) => key.includes('/slots/') || key.startsWith('objects/'));
    const request = { volume: id, name: 's', timeoutSeconds: -1 };
    const snapshot = await fixture.service.createSnapshot(request);
    await pass(fixture);
    const ref = { snapshot: snapshot.id };
    expect((await fixture.service.getSnapshot(ref)).synced).toBe(false);
    await expect(
      Promise.all([fixture.service.waitSnapshot(ref, 1), pass(fixture)]),
    ).rejects.toMatchObject({ code: 'SNAPSHOT_TIMEOUT' });
    await device.write(0, filled(2), { fua: true });
    expect(await readByte(device, 0)).toBe(2);
    release();
    await Promise.all([fixture.service.waitSnapshot(ref, 0), pass(fixture)]);
    expect((await fixture.service.getSnapshot(ref)).synced).toBe(true);
    await fixture.close();
  });

  it('keeps what was flushed on the disk through a loss of power', async () => {
    const { fixture, store, device, id } = await open();
    store.fail({ call: 'anyPut', fromThenOn: true });
    for (let i = 0; i < 20; i++)
      await device.write(i * clusterBytes, filled(i + 1), { fua: false });
    await device.flush();
    await pass(fixture);
    const next = await fixture.crash('power');
    const again = await next.openDevice(id);
    for (let i = 0; i < 20; i++) expect(await readByte(again, i)).toBe(i + 1);
    await next.close();
  });

  it('is tried again until it answers, however slow it is', async () => {
    const { fixture, store, device, id } = await open();
    const key = (name: string): boolean => /^objects|slots/.test(name);
    store.fail({ call: 'anyPut', key, nth: 1 });
    store.fail({ call: 'anyPut', key, nth: 3, afterwards: true });
    store.delay = () => settle(3);
    await device.write(0, filled(5, 300), { fua: false });
    const request = { volume: id, name: 's', timeoutSeconds: 0 };
    await Promise.all([fixture.service.createSnapshot(request), pass(fixture, 30)]);
    const next = await fixture.crash('power');
    expect(await readByte(await next.openDevice(id), 299)).toBe(5);
    await next.close();
  });

  it('that can not be listed or read fails no write, and no data is made up', async () => {
    const { fixture, store, device } = await open();
    await device.write(0, filled(7), { fua: true });
    store.fail({ call: 'list', fromThenOn: true });
    store.fail({ call: 'get', fromThenOn: true });
    await device.write(clusterBytes, filled(8), { fua: true });
    expect(await readByte(device, 0)).toBe(7);
    expect(await readByte(device, 1)).toBe(8);
    store.repair();
    await fixture.close();
  });
});

describe('damage in the backend', () => {
  it('is an error to whoever reads it, never data', async () => {
    const { fixture, store, device, id } = await open();
    await device.write(0, filled(1, 8), { fua: false });
    const request = { volume: id, name: 's', timeoutSeconds: 0 };
    await fixture.service.createSnapshot(request);
    const objects = await store.list('objects/');
    expect(objects.length).toBeGreaterThan(0);
    for (const { key } of objects) store.flipByte(key, 3 * clusterBytes + 17);
    await expect(device.read(3 * clusterBytes, clusterBytes)).rejects.toMatchObject({
      code: 'CORRUPT',
    });
    expect(await readByte(device, 2)).toBe(1);
    expect(await readByte(device, 4)).toBe(1);
    await device.write(3 * clusterBytes, filled(2), { fua: true });
    expect(await readByte(device, 3)).toBe(2);
    await fixture.close();
  });
});

describe('a full disk', () => {
  it('refuses new data, loses none, lets volumes go and serves again once there is room', async () => {
    const { fixture, device, id } = await open(64 * mib);
    const { device: other, id: otherId } = await fixture.createDevice('other', 64 * mib);
    await other.write(0, filled(9, 6144), { fua: true });
    let written = 0;
    const full = async (): Promise<void> => {
      for (; written < 16_000; written++) {
        await device.write(written * clusterBytes, filled(1 + (written % 250)), { fua: true });
      }
    };
    await expect(full()).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
    expect(written).toBeGreaterThan(100);
    for (let i = 0; i < written; i++) expect(await readByte(device, i)).toBe(1 + (i % 250));
    await device.flush();
    await other.close();
    await Promise.all([fixture.service.removeVolume(otherId, 'deferred'), pass(fixture, 50)]);
    await pass(fixture, 10);
    await device.write(written * clusterBytes, filled(77), { fua: true });
    // The removal may be undone by it, so that the disk is full again.
    const [next] = await Promise.all([fixture.crash('power'), pass(fixture, 50)]);
    const again = await next.openDevice(id);
    expect(await readByte(again, written)).toBe(77);
    for (let i = 0; i < written; i++) expect(await readByte(again, i)).toBe(1 + (i % 250));
    await Promise.all([next.close(), pass(next, 50)]);
  });
});
