import { describe, expect, test } from '@jest/globals';
import {
  chooseGrownSize,
  chooseSize,
  parseRange,
  volumeBytesDefault,
  volumeBytesMin,
} from './capacity-range.ts';

const mebibyte = 1024 * 1024;
const gibibyte = 1024 * mebibyte;

function sizeOrCode(choose: () => number): number | string {
  try {
    return choose();
  } catch (error) {
    return (error as { code: string }).code;
  }
}

describe('chooseSize', () => {
  const rows = [
    { name: 'nothing asked', required: 0, limit: 0, size: volumeBytesDefault },
    { name: 'a whole number of clusters', required: gibibyte, limit: 0, size: gibibyte },
    { name: 'rounding up', required: gibibyte + 1, limit: 0, size: gibibyte + 4096 },
    {
      name: 'rounding up to the limit',
      required: gibibyte + 1,
      limit: gibibyte + 4096,
      size: gibibyte + 4096,
    },
    {
      name: 'rounding up past the limit',
      required: gibibyte + 1,
      limit: gibibyte + 4095,
      size: 'OUT_OF_RANGE',
    },
    { name: 'exactly the limit', required: gibibyte, limit: gibibyte, size: gibibyte },
    { name: 'less than the minimum', required: 1, limit: 0, size: volumeBytesMin },
    { name: 'a limit below the minimum', required: 1, limit: 4096, size: 'OUT_OF_RANGE' },
    { name: 'only a high limit', required: 0, limit: 100 * gibibyte, size: volumeBytesDefault },
    { name: 'only a low limit', required: 0, limit: gibibyte + 5, size: gibibyte },
    { name: 'only a limit below the minimum', required: 0, limit: 5, size: 'OUT_OF_RANGE' },
    { name: 'more than a number holds', required: 2 ** 53, limit: 0, size: 'OUT_OF_RANGE' },
  ];
  test.each(rows)('$name', ({ required, limit, size }) => {
    const range = { requiredBytes: required, limitBytes: limit };
    expect(sizeOrCode(() => chooseSize(range, undefined))).toBe(size);
  });

  const sources = [
    { name: 'takes its size', required: 0, limit: 0, size: gibibyte },
    { name: 'may be larger', required: 2 * gibibyte, limit: 0, size: 2 * gibibyte },
    { name: 'may not be smaller', required: gibibyte - 4096, limit: 0, size: 'OUT_OF_RANGE' },
    { name: 'rounds before it compares', required: gibibyte - 1, limit: 0, size: gibibyte },
    { name: 'keeps the limit', required: 0, limit: gibibyte - 1, size: 'OUT_OF_RANGE' },
  ];
  test.each(sources)('from a source of 1 GiB: $name', ({ required, limit, size }) => {
    const range = { requiredBytes: required, limitBytes: limit };
    expect(sizeOrCode(() => chooseSize(range, gibibyte))).toBe(size);
  });
});

describe('chooseGrownSize', () => {
  const rows = [
    { name: 'nothing required', required: 0, limit: 0, size: gibibyte },
    { name: 'less than it has', required: 1, limit: 0, size: gibibyte },
    { name: 'as much as it has', required: gibibyte, limit: gibibyte, size: gibibyte },
    { name: 'more', required: 2 * gibibyte - 1, limit: 0, size: 2 * gibibyte },
    { name: 'a limit that it passes', required: 0, limit: gibibyte - 1, size: 'OUT_OF_RANGE' },
    {
      name: 'a limit that rounding passes',
      required: gibibyte + 1,
      limit: gibibyte + 2,
      size: 'OUT_OF_RANGE',
    },
  ];
  test.each(rows)('$name', ({ required, limit, size }) => {
    const range = { requiredBytes: required, limitBytes: limit };
    expect(sizeOrCode(() => chooseGrownSize(range, gibibyte))).toBe(size);
  });
});

describe('parseRange', () => {
  test.each([
    { name: 'negative required_bytes', requiredBytes: -1, limitBytes: 0 },
    { name: 'negative limit_bytes', requiredBytes: 0, limitBytes: -1 },
    { name: 'required_bytes above limit_bytes', requiredBytes: 2, limitBytes: 1 },
  ])('refuses $name', (range) => {
    expect(() => parseRange(range)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  test('takes an absent range as unset', () => {
    expect(parseRange(undefined)).toEqual({ requiredBytes: 0, limitBytes: 0 });
  });
});
