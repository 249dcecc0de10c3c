import { status } from '@grpc/grpc-js';
import { describe, expect, test } from '@jest/globals';
import { errorCodes, VolumeError, type ErrorCode } from '../volumes/errors.ts';
import { toCsiStatus } from './status.ts';

const codes = Object.keys(errorCodes) as ErrorCode[];

describe('a CSI status', () => {
  test.each(codes)('of %s is a failure with a text and without details', (code) => {
    const answer = toCsiStatus(
      '/csi.v1.Controller/CreateVolume',
      new VolumeError(code, 'create: no'),
    );
    expect(answer.code).not.toBe(status.OK);
    expect(answer).toEqual({ code: answer.code, details: 'create: no' });
    expect(toCsiStatus('/csi.v1.Node/X', new VolumeError(code, '')).details).not.toBe('');
  });

  test.each([
    ['/csi.v1.Controller/ControllerExpandVolume', status.INVALID_ARGUMENT],
    ['/csi.v1.Node/NodeExpandVolume', status.INVALID_ARGUMENT],
    ['/csi.v1.Node/NodeStageVolume', status.FAILED_PRECONDITION],
  ])('of NOT_CAPABLE depends on the call: %s', (path, code) => {
    expect(toCsiStatus(path, new VolumeError('NOT_CAPABLE', 'a: b')).code).toBe(code);
  });

  test('never says INTERNAL, which means that nothing was made, where work may still run', () => {
    for (const code of [
      'UNAVAILABLE',
      'OPERATION_PENDING',
      'SHUTTING_DOWN',
      'SNAPSHOT_TIMEOUT',
      'MOVED',
    ] as const) {
      const answer = toCsiStatus(
        '/csi.v1.Controller/CreateSnapshot',
        new VolumeError(code, 'a: b'),
      );
      expect([status.UNAVAILABLE, status.ABORTED]).toContain(answer.code);
    }
  });
});
