/**
 * A volumedriver that serves before the backend is back knows older states of its volumes. It must not take them for the
 * truth: who has an export attached gives it up when the answer is that its grant is gone.
 */
import { expect, test } from '@jest/globals';
import { EngineFixture, StillClock } from '../../../test/support/engine-fixture.ts';
import { FaultyStore } from '../../../test/support/faulty-store.ts';

test.each(['UNAVAILABLE', 'OUT_OF_SPACE'] as const)(
  'an export whose volume could not be recovered yet (%s) is not described',
  async (code) => {
    let isBroken = false;
    const clock = new StillClock();
    const wrapStore = (inner: ConstructorParameters<typeof FaultyStore>[0]): FaultyStore => {
      const store = new FaultyStore(inner);
      const key = (each: string): boolean => each.startsWith('volumes/');
      if (isBroken) store.fail({ call: 'anyPut', fromThenOn: true, code, key });
      return store;
    };
    const fixture = await EngineFixture.open({ wrapStore, clock });
    const { id } = await fixture.service.createVolume({ name: 'v', sizeBytes: 2 ** 20 });
    const generation = await fixture.service.grant(id, 'node', { readOnly: false });
    const granted = { kind: 'granted', volume: id, generation } as const;
    const { exportName } = await fixture.service.getExport(granted);
    const device = await fixture.exports.open(exportName);
    await device.write(0, Buffer.alloc(4096, 7), { fua: true });
    expect(await fixture.exports.info(exportName)).toMatchObject({ readOnly: false });
    isBroken = true;
    // It waits for the backend for a while, and then serves what it can.
    const time = setInterval(() => {
      fixture.clock.wakeAll();
      clock.wakeAll();
    }, 5);
    const next = await fixture.crash('process');
    clearInterval(time);
    await expect(next.exports.info(exportName)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(next.exports.info(id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  },
);
