/** What a volume does when the disk is full at the worst moment, or its client leaves in the middle of a request. */
import { describe, expect, it } from '@jest/globals';
import { EngineFixture } from '../../test/support/engine-fixture.ts';
import { FaultyStore } from '../../test/support/faulty-store.ts';
import type { ObjectStore } from './store/object-store.ts';
import type { Volume } from './volume.ts';

const mib = 2 ** 20;

async function volumeOf(fixture: EngineFixture, id: string): Promise<Volume> {
  const entry = fixture.service.catalog.byId(id);
  if (entry === undefined) throw new Error('the volume exists');
  return await fixture.service.catalog.open(entry);
}

describe('a checkpoint that meets a full disk', () => {
  it.each([1, 2, 3, 4])('at write %i of its TLogs leaves a volume that opens', async (nth) => {
    let fixture = await EngineFixture.open();
    const { device, id } = await fixture.createDevice('v', 64 * mib);
    await device.write(0, Buffer.alloc(8192, 1), { fua: true });
    const volume = await volumeOf(fixture, id);
    const tlog = /\.tlog$/;
    fixture.disk.fail({ kind: 'write', errno: 'ENOSPC', nth, path: (path) => tlog.test(path) });
    await expect(volume.checkpoint()).rejects.toMatchObject({ code: 'OUT_OF_SPACE' });
    fixture.disk.repair();
    await fixture.engine.environment.space.restore();
    await device.write(mib, Buffer.alloc(4096, 2), { fua: true });
    await volume.commitAll();
    fixture = await fixture.crash('process');
    const again = await fixture.openDevice(id);
    expect(Buffer.concat(await again.read(mib, 4096))).toEqual(Buffer.alloc(4096, 2));
    expect(Buffer.concat(await again.read(0, 8192))).toEqual(Buffer.alloc(8192, 1));
    await fixture.close();
  });
});

describe('objects that a checkpoint took out of the accounts', () => {
  it('are deleted in the end although neither it nor the next open could', async () => {
    const stuck = (inner: ObjectStore): FaultyStore => {
      const store = new FaultyStore(inner);
      const key = (one: string): boolean => one.startsWith('objects/');
      store.fail({ call: 'delete', fromThenOn: true, key });
      return store;
    };
    let fixture = await EngineFixture.open({ wrapStore: stuck });
    const { device, id } = await fixture.createDevice('v', mib);
    await device.write(0, Buffer.alloc(65_536, 1), { fua: true });
    await (await volumeOf(fixture, id)).checkpoint();
    await device.write(0, Buffer.alloc(65_536, 2), { fua: true });
    await expect((await volumeOf(fixture, id)).checkpoint()).rejects.toThrow('simulated failure');
    fixture = await fixture.crash('process');
    const volume = await volumeOf(fixture, id);
    await expect(volume.sweep()).rejects.toThrow('simulated failure');
    const { store } = fixture;
    if (store instanceof FaultyStore) store.repair();
    const again = await fixture.openDevice(id);
    await again.write(0, Buffer.alloc(65_536, 3), { fua: true });
    await volume.checkpoint();
    const objects = await store.list('objects/');
    expect(objects).toHaveLength(volume.image.accounts.objects.size);
    await fixture.close();
  });
});

describe('a volume whose flushes go to the backend', () => {
  it('makes a checkpoint after so many of them, however little each one holds', async () => {
    const fixture = await EngineFixture.open();
    const { id: publicId } = await fixture.service.createVolume({
      name: 'v',
      sizeBytes: mib,
      flushTo: 'backend',
    });
    const id = publicId.slice(publicId.indexOf('.') + 1);
    const device = await fixture.openDevice(id);
    const volume = await volumeOf(fixture, id);
    const slots = async (): Promise<number> =>
      (await fixture.store.list(`volumes/${id}/slots/`)).length;
    for (let i = 0; i < 300; i++) await device.write(0, Buffer.alloc(4096, i), { fua: true });
    expect(await slots()).toBeGreaterThan(300);
    await volume.maintain();
    expect(await slots()).toBeLessThan(10);
    await fixture.close();
  });
});

describe('a request whose client leaves', () => {
  it('is not applied any more while it waits for its turn', async () => {
    const fixture = await EngineFixture.open();
    const { device, id } = await fixture.createDevice('v', mib);
    const first = device.write(100, Buffer.alloc(5000, 1), { fua: false });
    const second = device.write(200, Buffer.alloc(5000, 2), { fua: false });
    const cleared = device.discard(300, 20_000, { fua: false });
    const settled = Promise.allSettled([first, second, cleared]);
    await device.close();
    const [, ...behind] = await settled;
    for (const { status } of behind) expect(status).toBe('rejected');
    const again = await fixture.openDevice(id);
    expect(Buffer.concat(await again.read(0, 8192)).includes(2)).toBe(false);
    await again.close();
    await fixture.close();
  });
});
