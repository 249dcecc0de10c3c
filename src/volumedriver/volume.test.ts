/** One engine on a simulated disk: what is written comes back, in memory, after a clean close and after crashes. */
import { describe, expect, it } from '@jest/globals';
import { silentLogger } from '../base/logger.ts';
import { EngineFixture } from '../../test/support/engine-fixture.ts';

const mib = 2 ** 20;

function filled(length: number, byte: number): Buffer {
  return Buffer.alloc(length, byte);
}

describe('a volume', () => {
  it('reads back what was written, and zeroes elsewhere', async () => {
    const fixture = await EngineFixture.open({ logger: silentLogger });
    const { device } = await fixture.createDevice('v', 8 * mib);
    await device.write(4096, filled(8192, 7), { fua: false });
    const bytes = Buffer.concat(await device.read(0, 16384));
    expect(bytes.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(4096, 12288).every((byte) => byte === 7)).toBe(true);
    expect(bytes.subarray(12288).every((byte) => byte === 0)).toBe(true);
    await fixture.close();
  });

  it('keeps unaligned writes apart', async () => {
    const fixture = await EngineFixture.open({ logger: silentLogger });
    const { device } = await fixture.createDevice('v', mib);
    await device.write(0, filled(mib, 1), { fua: false });
    await Promise.all([
      device.write(100, filled(50, 2), { fua: false }),
      device.write(150, filled(5000, 3), { fua: false }),
      device.writeZeroes(9000, 10, { fua: false, allocate: false }),
    ]);
    const expected = filled(mib, 1);
    expected.fill(2, 100, 150).fill(3, 150, 5150).fill(0, 9000, 9010);
    expect(Buffer.concat(await device.read(0, mib)).equals(expected)).toBe(true);
    await fixture.close();
  });

  it.each(['process', 'power'] as const)(
    'survives the loss of its %s after a flush',
    async (kind) => {
      let fixture = await EngineFixture.open({ logger: silentLogger });
      const { device, id } = await fixture.createDevice('v', 64 * mib);
      for (let i = 0; i < 40; i++) await device.write(i * mib, filled(mib, i + 1), { fua: false });
      await device.flush();
      fixture = await fixture.crash(kind);
      const again = await fixture.openDevice(id);
      for (let i = 0; i < 40; i++) {
        const bytes = Buffer.concat(await again.read(i * mib, mib));
        expect(bytes.equals(filled(mib, i + 1))).toBe(true);
      }
      await fixture.close();
    },
  );

  it('is the same after a clean close, with nothing left on the local disk', async () => {
    let fixture = await EngineFixture.open({ logger: silentLogger });
    const { device, id } = await fixture.createDevice('v', 8 * mib);
    await device.write(12345, filled(100_000, 9), { fua: false });
    fixture = await fixture.restart();
    expect(fixture.disk.list(`/data/volumes/${id}`)).toEqual([]);
    const again = await fixture.openDevice(id);
    expect(Buffer.concat(await again.read(12345, 100_000)).equals(filled(100_000, 9))).toBe(true);
    await fixture.close();
  });
});
