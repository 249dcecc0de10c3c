/**
 * The written histories with one fault at every place where one can happen: each change of the disk fails with EIO and
 * with ENOSPC, each call of the backend fails before it did anything and after it did everything. Of the long histories
 * every fifth place, or with EVERY_PLACE=1 all.
 */
import { describe, expect, it } from '@jest/globals';
import { histories } from '../support/histories.ts';
import type { ArmedFault } from '../support/model-lives.ts';
import { runHistoryWithFault } from '../support/scripted-history.ts';

interface Kind {
  readonly name: string;
  readonly faultAt: (left: number) => ArmedFault;
  /** Half of the places are mended in place, half by a restart: which, differs between the kinds. */
  readonly shift: number;
}

const kinds: readonly Kind[] = [
  { name: 'EIO on the disk', faultAt: (left) => ({ at: 'disk', left, errno: 'EIO' }), shift: 0 },
  {
    name: 'ENOSPC on the disk',
    faultAt: (left) => ({ at: 'disk', left, errno: 'ENOSPC' }),
    shift: 1,
  },
  {
    name: 'a refusal by the backend',
    faultAt: (left) => ({ at: 'store', left, afterwards: false }),
    shift: 0,
  },
  {
    name: 'a lost answer of the backend',
    faultAt: (left) => ({ at: 'store', left, afterwards: true }),
    shift: 1,
  },
];

const everyPlace = process.env['EVERY_PLACE'] === '1';
const withoutCrashes = histories.filter(({ crashes }) => crashes !== true);

describe.each(kinds)('$name, in', ({ faultAt, shift }) => {
  it.each(withoutCrashes)(
    '$name',
    async ({ history, options }) => {
      const whole = await runHistoryWithFault(history, options, { fault: null, restart: false });
      const count = faultAt(1).at === 'disk' ? whole.diskChanges : whole.storeCalls;
      expect(count).toBeGreaterThan(10);
      const stride = everyPlace || count < 200 ? 1 : 5;
      for (let left = 1; left <= count; left += stride) {
        const run = { fault: faultAt(left), restart: (left + shift) % 2 === 0 };
        await runHistoryWithFault(history, options, run).catch((error: unknown) => {
          const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
          throw new Error(`fault ${left} of ${count}: ${text}`, { cause: error });
        });
      }
    },
    600_000,
  );
});
