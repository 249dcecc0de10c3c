import { expect, test } from '@jest/globals';
import { writesDone } from './write-back.ts';

/** Fields 1 to 17, each its own number. */
const stat = Array.from({ length: 17 }, (_, index) => index + 1);

test.each([
  ['a write', 5, true],
  ['sectors of a write', 7, true],
  ['a discard', 12, true],
  ['a flush', 16, true],
  ['a read', 1, false],
  ['a request that has only begun', 9, false],
  ['time that passes', 10, false],
])('%s counts as progress: %#', (_, field, counts) => {
  const later = stat.map((value, index) => (index === field - 1 ? value + 1000 : value));
  const changed = writesDone(`  ${later.join('     ')}\n`) !== writesDone(stat.join(' '));
  expect(changed).toBe(counts);
});

test('an older kernel counts less', () => {
  expect(writesDone('1 2 3 4 5 6 7 8 9 10 11\n')).toBe('5 7  ');
});
