/** Starting and closing with a backend that takes nothing: both end within their limits, and nothing is lost. */
import { describe, expect, it } from '@jest/globals';
import { EngineFixture } from '../../../test/support/engine-fixture.ts';
import { FaultyStore } from '../../../test/support/faulty-store.ts';
import type { ObjectStore } from '../store/object-store.ts';

const mib = 2 ** 20;

/** Runs `work`, ending every sleep of the engine's again and again meanwhile. */
async function withTimePassing<Result>(
  clock: EngineFixture['clock'],
  work: Promise<Result>,
): Promise<Result> {
  const timer = setInterval(() => {
    clock.wakeAll();
  }, 5);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}

describe('a volumedriver whose backend takes nothing', () => {
  it('closes within its limit; the next start finds every write', async () => {
    const stores: FaultyStore[] = [];
    const wrapStore = (inner: ObjectStore): FaultyStore => {
      const store = new FaultyStore(inner);
      stores.push(store);
      return store;
    };
    let fixture = await EngineFixture.open({ wrapStore });
    const { device, id } = await fixture.createDevice('v', mib);
    await fixture.service.createVolume({ name: 'w', sizeBytes: mib });
    const isData = (key: string): boolean => !key.startsWith('snapshots/');
    stores[0]?.fail({ call: 'anyPut', fromThenOn: true, key: isData });
    await device.write(4096, Buffer.alloc(4096, 7), { fua: true });
    const taken = { volume: id, name: 's', timeoutSeconds: -1 };
    const snapshot = await fixture.service.createSnapshot(taken);
    expect(snapshot.synced).toBe(false);
    await withTimePassing(fixture.clock, fixture.service.close());
    fixture = await EngineFixture.open({ ...fixture.nextOptions(), wrapStore });
    const again = await fixture.openDevice(id);
    expect(Buffer.concat(await again.read(4096, 4096))).toEqual(Buffer.alloc(4096, 7));
    expect((await fixture.service.getSnapshot({ snapshot: snapshot.id })).synced).toBe(true);
    await fixture.close();
  });

  it('starts although a removal that was interrupted can not go on', async () => {
    let refused = '';
    const wrapStore = (inner: ObjectStore): FaultyStore => {
      const store = new FaultyStore(inner);
      const key = (one: string): boolean => refused !== '' && one.includes(refused);
      store.fail({ call: 'anyPut', fromThenOn: true, key });
      return store;
    };
    let fixture = await EngineFixture.open({ wrapStore });
    const { device, id } = await fixture.createDevice('v', mib);
    await device.write(4096, Buffer.alloc(4096, 7), { fua: true });
    await device.close();
    refused = id;
    fixture.service.removeVolume(id, 'deferred').catch(() => undefined);
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    fixture.crashNow('process');
    const { clock } = fixture;
    const next = EngineFixture.open({ ...fixture.nextOptions(), clock });
    fixture = await withTimePassing(clock, next);
    await fixture.createDevice('w', mib);
    refused = '';
    await withTimePassing(clock, fixture.close());
  });

  it('says of no snapshot that it is synced once a close has failed; maintenance stores it later', async () => {
    const stores: FaultyStore[] = [];
    const wrapStore = (inner: ObjectStore): FaultyStore => {
      const store = new FaultyStore(inner);
      stores.push(store);
      return store;
    };
    const fixture = await EngineFixture.open({ wrapStore });
    const { device, id } = await fixture.createDevice('v', mib);
    await device.write(4096, Buffer.alloc(4096, 7), { fua: true });
    await device.close();
    const isData = (key: string): boolean => !key.startsWith('snapshots/');
    stores[0]?.fail({ call: 'anyPut', fromThenOn: true, key: isData });
    const taken = { volume: id, name: 's', timeoutSeconds: -1 };
    const { id: snapshot } = await fixture.service.createSnapshot(taken);
    const entry = fixture.service.catalog.byId(id);
    if (entry === undefined) throw new Error('it exists');
    await expect(fixture.service.catalog.close(entry)).rejects.toThrow('simulated failure');
    await fixture.service.catalog.close(entry); // as maintenance does
    expect((await fixture.service.getSnapshot({ snapshot })).synced).toBe(false);
    stores[0]?.repair();
    await withTimePassing(fixture.clock, untilSynced(fixture, snapshot));
    await fixture.close();
  });
});

async function untilSynced(fixture: EngineFixture, snapshot: string): Promise<void> {
  for (let turn = 0; turn < 1000; turn++) {
    if ((await fixture.service.getSnapshot({ snapshot })).synced) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error('it is not synced');
}
