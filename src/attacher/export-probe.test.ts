import { expect, test } from '@jest/globals';
import { optionErrorOf } from '../nbd/errors.ts';
import { VolumeError, type ErrorCode } from '../volumes/errors.ts';
import { isGone, requireOffered, troubleOf } from './export-probe.ts';
import type { ExportProbe } from './nbd-probe.ts';

const offered = { kind: 'offered', sizeBytes: 1, readOnly: false } as const;

function refusedFor(code: ErrorCode): ExportProbe {
  return { kind: 'refused', reason: 'why', reply: optionErrorOf(new VolumeError(code, 'why')) };
}

test.each(['FENCED', 'VOLUME_NOT_FOUND', 'SNAPSHOT_NOT_FOUND'] as const)(
  'a device whose export is %s is broken',
  (code) => {
    expect(troubleOf(refusedFor(code))).toEqual({
      state: 'broken',
      reason: 'the export is refused: why',
    });
    expect(isGone(refusedFor(code))).toBe(true);
  },
);

test.each(['CORRUPT', 'HALTED', 'INTERNAL', 'MOVED', 'VOLUME_IN_USE', 'LIMIT_REACHED'] as const)(
  'a device whose volume is %s waits',
  (code) => {
    expect(troubleOf(refusedFor(code))?.state).toBe('waiting');
    expect(isGone(refusedFor(code))).toBe(false);
  },
);

test('a device whose server is away waits, and one whose export is there has no trouble', () => {
  const away: ExportProbe = { kind: 'unreachable', reason: 'ENOENT' };
  expect(troubleOf(away)).toEqual({
    state: 'waiting',
    reason: 'the volumedriver does not answer: ENOENT',
  });
  expect(troubleOf(offered)).toBeNull();
  expect(isGone(offered)).toBe(false);
});

test.each([
  ['UNAVAILABLE', { kind: 'unreachable', reason: 'ENOENT' }, false],
  ['VOLUME_NOT_FOUND', refusedFor('FENCED'), false],
  ['VOLUME_IN_USE', refusedFor('VOLUME_IN_USE'), false],
  ['READ_ONLY', { ...offered, readOnly: true }, false],
] as const)('what cannot be attached is %s', (code, probe, readOnly) => {
  expect(() => requireOffered(probe, readOnly)).toThrow(expect.objectContaining({ code }));
});

test('what is offered can be attached', () => {
  expect(requireOffered(offered, false)).toEqual(offered);
  expect(requireOffered({ ...offered, readOnly: true }, true).sizeBytes).toBe(1);
});
