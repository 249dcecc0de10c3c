/** A gap, a torn line or a missing one is found; only what was never acknowledged may be torn. */
import { expect, test } from '@jest/globals';
import { checkLines } from './written-lines.ts';

const whole = '1 10.00\n2 10.02\n3 11.50\n4 11.52\n';

test('counts lines, and tells the longest pause', () => {
  expect(checkLines(whole, 4)).toEqual({ count: 4, longestPauseMs: 1480 });
});

test('takes a clock that starts anew for no pause', () => {
  expect(checkLines('1 900.00\n2 3.00\n3 3.50\n', 3)).toEqual({ count: 3, longestPauseMs: 500 });
});

test.each([
  { what: 'nothing', text: '', acknowledged: 0, count: 0 },
  { what: 'a torn line that nobody acknowledged', text: `${whole}5 1`, acknowledged: 4, count: 4 },
  { what: 'a whole line that nobody acknowledged', text: whole, acknowledged: 3, count: 4 },
])('accepts $what', ({ text, acknowledged, count }) => {
  expect(checkLines(text, acknowledged).count).toBe(count);
});

test.each([
  { what: 'a torn line that was acknowledged', text: `${whole}5 1`, acknowledged: 5 },
  { what: 'too few lines', text: whole, acknowledged: 5 },
  { what: 'a gap', text: '1 10.00\n3 10.02\n4 10.04\n', acknowledged: 2 },
  { what: 'zeros in the middle', text: '1 10.00\n\0\0\0\0\n3 10.04\n', acknowledged: 1 },
  { what: 'a line twice', text: '1 10.00\n1 10.00\n2 10.02\n', acknowledged: 1 },
])('refuses $what', ({ text, acknowledged }) => {
  expect(() => checkLines(text, acknowledged)).toThrow(/line|lines/);
});
