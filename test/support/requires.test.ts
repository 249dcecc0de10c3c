import { describe, expect, test } from '@jest/globals';
import { unmetRequirement, type Requirement } from './requires.ts';

describe('unmetRequirement', () => {
  test.each<{ requirements: Requirement[]; reason: string | undefined; installable?: boolean }>([
    { requirements: [], reason: undefined },
    { requirements: ['tool:sh'], reason: undefined },
    { requirements: ['tool:sh', 'path:/'], reason: undefined },
    {
      requirements: ['tool:no-such-tool'],
      reason: 'needs the tool no-such-tool',
      installable: true,
    },
    {
      requirements: ['python:no_such_module'],
      reason: 'needs the Python module no_such_module',
      installable: true,
    },
    { requirements: ['path:/no/such/path'], reason: 'needs /no/such/path', installable: false },
    {
      requirements: ['tool:sh', 'path:/no/such/path', 'tool:no-such-tool'],
      reason: 'needs /no/such/path',
      installable: false,
    },
  ])('$requirements: $reason', ({ requirements, reason, installable }) => {
    const unmet = unmetRequirement(requirements);
    expect(unmet?.reason).toBe(reason);
    expect(unmet?.installable).toBe(installable);
  });
});
