import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { formatSize, parseSize } from './sizes.ts';

describe('a size', () => {
  test.each<[string, number]>([
    ['1', 1],
    ['4096', 4096],
    ['4096B', 4096],
    ['10GiB', 10 * 2 ** 30],
    ['10 gib', 10 * 2 ** 30],
    ['10Gi', 10 * 2 ** 30],
    ['500MB', 500_000_000],
    ['1.5TiB', 1.5 * 2 ** 40],
    ['0.5KiB', 512],
    ['1.25kB', 1250],
    ['8191TiB', 8191 * 2 ** 40],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each<[string, string]>([
    ['', 'write a number and a unit'],
    ['big', 'write a number and a unit'],
    ['-1GiB', 'write a number and a unit'],
    ['1e3', 'write a number and a unit'],
    ['1,5GiB', 'write a number and a unit'],
    ['10G', 'write GiB (1024) or GB (1000)'],
    ['10k', 'write KiB (1024) or KB (1000)'],
    ['10XB', 'there is no unit XB'],
    ['0', 'more than nothing'],
    ['0.0GiB', 'more than nothing'],
    ['0.3B', 'not a whole number of bytes'],
    ['8192TiB', 'more than 8 PiB'],
    ['99999999999999999999', 'more than 8 PiB'],
  ])('%j is refused', (text, why) => {
    expect(() => parseSize(text)).toThrow(why);
  });

  test('in bytes is understood as it is', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), (bytes) => {
        expect(parseSize(`${bytes}`)).toBe(bytes);
      }),
    );
  });

  test.each<[number, string]>([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [1024 * 1024 - 1, '1 MiB'],
    [10 * 2 ** 30, '10 GiB'],
    [500_000_000, '476.8 MiB'],
    [Number.MAX_SAFE_INTEGER, '8 PiB'],
  ])('of %d bytes reads %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});
