/**
 * Short histories, crashed at every operation that changes something on the disk or in the backend: once as the loss of
 * the process, once as the loss of power. What was acknowledged and flushed must be there, and what was under way
 * happened or did not.
 */
import { describe, expect, it } from '@jest/globals';
import { histories } from '../support/histories.ts';
import { runHistory } from '../support/scripted-history.ts';

describe.each(['process', 'power'] as const)('a loss of the %s at every operation of', (loss) => {
  it.each(histories)(
    '$name',
    async ({ history, options }) => {
      const count = await runHistory(history, options, null);
      expect(count).toBeGreaterThan(20);
      for (let operation = 1; operation <= count; operation++) {
        await runHistory(history, options, { loss, operation }).catch((error: unknown) => {
          const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
          throw new Error(`operation ${operation} of ${count}: ${text}`, { cause: error });
        });
      }
    },
    600_000,
  );
});
