/** Keys of the backend: as they are stored, in the order that listings rely on. */
import { describe, expect, test } from '@jest/globals';
import { makeObjectId } from './format/location.ts';
import { keys, numberOfKey } from './keys.ts';

const volume = '01ARZ3NDEKTSV4RRFFQ69G5FAV';

describe('keys', () => {
  // A backend of today holds these: a change makes its volumes unreachable.
  test.each<[string, string]>([
    [keys.backend, 'backend'],
    [keys.writer(0x1f), 'writers/0000001f'],
    [keys.object(makeObjectId(0xffffffff, 0xfffff)), 'objects/ffffffff/fffff'],
    [keys.objectsOfWriter(2), 'objects/00000002/'],
    [keys.slot(volume, 255), `volumes/${volume}/slots/000000000000ff`],
    [keys.slotPrefix(volume), `volumes/${volume}/slots/`],
    [keys.accounts(volume, 1), `volumes/${volume}/accounts/00000000000001`],
    [keys.snapshot(volume), `snapshots/${volume}`],
    [
      keys.volumeName('été 🏖'),
      'names/volumes/09f2455878f513b26a72608f901b0efdb30bf74c95f62e9f892a3e88bf801720',
    ],
  ])('are %s', (key, expected) => {
    expect(key).toBe(expected);
  });

  test('are legal for every store, whatever the name', () => {
    for (const name of ['', '/', '../..', '\u0000', 'a'.repeat(10_000), '🏖']) {
      for (const key of [keys.volumeName(name), keys.snapshotName(name)]) {
        expect(key).toMatch(/^names\/(volumes|snapshots)\/[0-9a-f]{64}$/);
      }
      expect(keys.volumeName(name)).not.toBe(keys.volumeName(`${name} `));
    }
  });

  test('sort by number and give it back', () => {
    const numbers = [0, 1, 9, 10, 15, 16, 255, 4095, 65_536, 2 ** 40, Number.MAX_SAFE_INTEGER];
    const slots = numbers.map((number) => keys.slot(volume, number));
    expect([...slots].sort()).toEqual(slots);
    expect(slots.map(numberOfKey)).toEqual(numbers);
    const objects = [0, 1, 0xfffff].map((counter) => keys.object(makeObjectId(3, counter)));
    expect(objects.map(numberOfKey)).toEqual([0, 1, 0xfffff]);
  });
});
