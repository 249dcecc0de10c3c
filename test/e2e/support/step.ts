/**
 * `step` is a test that may need what not every cluster has: it is then skipped, and its name says why in the form
 * that the reporter of `make test` lists (see test/support/jest-reporter.ts).
 */
import { test } from '@jest/globals';
import type { ProviderFeature } from '../provider.ts';
import { readState } from './state.ts';

/** `two-nodes`: of whatever kind. */
export type Need = ProviderFeature | 'two-nodes';

/** Of one test; longer than the sum of what it waits for is not needed, since every wait has a limit of its own. */
const stepLimitMs = 5 * 60_000;

const needTexts: Readonly<Record<Need, string>> = {
  'two-nodes': 'needs two nodes',
  'second-node': 'needs a second node that can be rebooted and killed',
  'kernel-nbd': "needs a node with the kernel's NBD client",
  'restart-api-server': 'needs an API server that can be restarted',
};

export function step(name: string, body: () => Promise<void>, limitMs = stepLimitMs): void {
  test(name, () => told(name, body), limitMs);
}

export function stepNeeds(
  needs: readonly Need[],
  name: string,
  body: () => Promise<void>,
  limitMs = stepLimitMs,
): void {
  const { features, nodes } = readState();
  const has = new Set<Need>([...features, ...(nodes.length > 1 ? (['two-nodes'] as const) : [])]);
  const missing = needs.find((need) => !has.has(need));
  if (missing === undefined) step(name, body, limitMs);
  else test.skip(`${name} [${needTexts[missing]}]`, body);
}

/** Says how long each took, as soon as it is over. */
async function told(name: string, body: () => Promise<void>): Promise<void> {
  const started = performance.now();
  let end = 'FAILED';
  try {
    await body();
    end = 'ok';
  } finally {
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    process.stdout.write(`   ${seconds.padStart(6)} s  ${end}  ${name}\n`);
  }
}
