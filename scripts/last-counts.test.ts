import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';

function lastCounts(input: string): { stdout: string; status: number | null } {
  const script = join(import.meta.dirname, 'last-counts');
  return spawnSync(script, [], { input, encoding: 'utf8', timeout: 10_000 });
}

describe('last-counts', () => {
  test.each([
    ['the plain line', '12 passed, 3 failed, 4 skipped\n', '12 3 4\n'],
    ['without skips', '12 passed, 3 failed\n', '12 3 0\n'],
    [
      'the last of several',
      '1 passed, 1 failed, 1 skipped\n2 passed, 0 failed, 0 skipped\n',
      '2 0 0\n',
    ],
    [
      'before the word of make',
      '1 passed, 2 failed, 3 skipped\nmake: *** [test] Error 1\n',
      '1 2 3\n',
    ],
    [
      'not the line of one suite',
      '1 passed, 0 failed, 0 skipped\nbackend: 9 passed, 9 failed, 9 skipped, 1 s\n',
      '1 0 0\n',
    ],
    [
      "Ginkgo's lines, in colour, summed",
      'FAIL! -- \u001b[32m\u001b[1m84 Passed\u001b[0m | \u001b[31m1 Failed\u001b[0m | 1 Pending | 8 Skipped\nSUCCESS! -- 5 Passed | 0 Failed | 0 Pending | 2 Skipped\n',
      '89 1 11\n',
    ],
  ])('reads %s', (_name, input, counts) => {
    expect(lastCounts(input)).toMatchObject({ stdout: counts, status: 0 });
  });

  test('fails when nothing was counted', () => {
    expect(lastCounts('make: *** no rule\n')).toMatchObject({ stdout: '', status: 1 });
  });
});
