import { describe, expect, test } from '@jest/globals';
import { VolumeCapability_AccessMode_Mode as Mode } from '../api/generated/csi.ts';
import {
  allowsSeveralTargets,
  isReadOnlyMode,
  parseCapability,
  unsupportedReason,
} from './volume-capability.ts';

const rows = [
  { mode: 'SINGLE_NODE_WRITER', local: true, shared: true, reads: false, several: false },
  { mode: 'SINGLE_NODE_READER_ONLY', local: true, shared: true, reads: true, several: false },
  { mode: 'MULTI_NODE_READER_ONLY', local: false, shared: true, reads: true, several: true },
  { mode: 'MULTI_NODE_SINGLE_WRITER', local: false, shared: false, reads: false, several: true },
  { mode: 'MULTI_NODE_MULTI_WRITER', local: false, shared: false, reads: false, several: true },
  { mode: 'SINGLE_NODE_SINGLE_WRITER', local: true, shared: true, reads: false, several: false },
  { mode: 'SINGLE_NODE_MULTI_WRITER', local: true, shared: true, reads: false, several: true },
] as const;

describe('access modes', () => {
  test.each(rows)('$mode', ({ mode, local, shared, reads, several }) => {
    const use = parseCapability('volume_capability', {
      accessMode: { mode: Mode[mode] },
      accessType: { $case: 'block', value: {} },
    });
    expect(use).toEqual({ kind: 'block', accessMode: mode });
    expect(unsupportedReason(use, { shared: false }) === undefined).toBe(local);
    expect(unsupportedReason(use, { shared: true }) === undefined).toBe(shared);
    expect(isReadOnlyMode(mode)).toBe(reads);
    expect(allowsSeveralTargets(mode)).toBe(several);
  });

  test('are all that CSI defines', () => {
    const known = Object.keys(Mode).filter((name) => !['UNKNOWN', 'UNRECOGNIZED'].includes(name));
    expect(rows.map(({ mode }) => mode).sort()).toEqual(known.sort());
  });
});
