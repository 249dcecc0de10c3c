/** Which volume an export's name means when names look like ids, and who may write. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { EngineFixture } from '../../../test/support/engine-fixture.ts';

const mib = 2 ** 20;

let fixture: EngineFixture;
let id: string;

beforeEach(async () => {
  fixture = await EngineFixture.open();
  id = (await fixture.service.createVolume({ name: 'first', sizeBytes: mib })).id;
});

afterEach(async () => {
  await fixture.close();
});

test("a name that looks like another volume's export never hides that", async () => {
  const generation = await fixture.service.grant(id, 'node', { readOnly: false });
  const { exportName } = await fixture.service.getExport({
    kind: 'granted',
    volume: id,
    generation,
  });
  const ulid = exportName.slice(0, exportName.indexOf('#'));
  for (const name of [exportName, ulid]) {
    await fixture.service.createVolume({ name, sizeBytes: 2 * mib });
  }
  expect(await fixture.exports.info(exportName)).toMatchObject({ sizeBytes: mib });
  await expect(fixture.exports.info(ulid)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
});

test.each(['pvc#1', 'pvc@snapshot', '01ARZ3NDEKTSV4RRFFQ69G5FAV#7'])(
  'a volume named %s has an export',
  async (name) => {
    await fixture.service.createVolume({ name, sizeBytes: 3 * mib });
    expect(await fixture.exports.info(name)).toMatchObject({ sizeBytes: 3 * mib });
  },
);

test('nobody writes what an interrupted mkfs, begun again, would destroy', async () => {
  const generation = await fixture.service.grant(id, 'node', { readOnly: false });
  await fixture.service.beginFormatting(id, generation, 'ext4');
  await fixture.service.revoke(id, 'node');
  const device = await fixture.exports.open(id);
  expect(device.readOnly).toBe(true);
  const write = device.write(0, Buffer.alloc(4096, 1), { fua: false });
  await expect(write).rejects.toMatchObject({ code: 'READ_ONLY' });
  await device.close();
  const next = await fixture.service.grant(id, 'node', { readOnly: false });
  await fixture.service.endFormatting(id, next);
  await fixture.service.revoke(id, 'node');
  const after = await fixture.exports.open(id);
  expect(after.readOnly).toBe(false);
  await after.close();
});
