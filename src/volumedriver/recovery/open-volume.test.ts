/** What an open finds on the local disk after a crash, and what it makes of it: the order of events that matters most. */
import { describe, expect, it } from '@jest/globals';
import { EngineFixture, type FixtureOptions } from '../../../test/support/engine-fixture.ts';
import type { SimulatedDisk } from '../../../test/support/simulated-disk.ts';

const cluster = 4096;

async function firstBytes(fixture: EngineFixture, id: string, count: number): Promise<number[]> {
  const device = await fixture.openDevice(id);
  const bytes = Buffer.concat(await device.read(0, count * cluster));
  return Array.from({ length: count }, (_, i) => bytes.readUInt8(i * cluster));
}

describe('opening a volume after a crash of the process', () => {
  it('keeps what was written behind a flush into the object that the flush found open', async () => {
    let fixture = await EngineFixture.open();
    const { device, id } = await fixture.createDevice('v', 2 ** 20);
    for (const [at, fua] of [true, false, true, false, false].entries()) {
      await device.write(at * cluster, Buffer.alloc(cluster, at + 1), { fua });
    }
    fixture = await fixture.crash('process');
    expect(await firstBytes(fixture, id, 5)).toEqual([1, 2, 3, 4, 5]);
    expect((await fixture.service.getVolume('v')).generation).toBe(0);
    await fixture.close();
  });

  it.each([
    { loss: 'process', second: [2] },
    { loss: 'power', second: [0, 2] },
  ] as const)('keeps it when the $loss goes anywhere in the recovery', async ({ loss, second }) => {
    let interrupted = 0;
    for (let operations = 5; ; operations += 7) {
      const first = await EngineFixture.open({ seed: operations });
      const { device, id } = await first.createDevice('v', 2 ** 20);
      await device.write(0, Buffer.alloc(cluster, 1), { fua: true });
      await device.write(cluster, Buffer.alloc(cluster, 2), { fua: false });
      const options = { seed: operations, disk: first.disk.crash('process'), life: 1 };
      const { ended, disk } = await openUntil(options, loss, operations);
      if (!ended) break;
      interrupted++;
      const fixture = await EngineFixture.open({ ...options, disk, life: 2 });
      const bytes = await firstBytes(fixture, id, 2);
      expect(bytes[0]).toBe(1);
      expect(second).toContain(bytes[1]);
      await fixture.close();
    }
    expect(interrupted).toBeGreaterThan(5);
  });
});

/** Opens until the loss at the n-th operation; `ended` says whether it came to that. */
async function openUntil(
  options: FixtureOptions & { disk: SimulatedDisk },
  loss: 'process' | 'power',
  operations: number,
): Promise<{ ended: boolean; disk: SimulatedDisk }> {
  const { disk } = options;
  let left = operations;
  const lost = new Promise<{ ended: boolean; disk: SimulatedDisk }>((resolve) => {
    disk.onOperation(() => {
      if (--left === 0) resolve({ ended: true, disk: disk.crash(loss) });
    });
  });
  const opened = EngineFixture.open(options).then(() => ({ ended: false, disk }));
  opened.catch(() => undefined); // the loss, seen from inside
  return await Promise.race([lost, opened]);
}
