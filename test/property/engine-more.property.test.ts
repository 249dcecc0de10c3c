/** Random histories of a whole engine against a model, the second half of the seeds: test files share the processors. */
import { describe, it } from '@jest/globals';
import { runSeeds, seedsOf } from '../support/model-seeds.ts';

const seeds = seedsOf(1, 2);

describe('an engine under random histories', () => {
  it(`is what the model says: ${seeds.count} seeds from ${seeds.first}`, async () => {
    await runSeeds(seeds);
  }, 3_600_000);
});
