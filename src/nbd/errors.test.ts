import { describe, expect, test } from '@jest/globals';
import { errorCodes, isErrorCode, VolumeError } from '../volumes/errors.ts';
import { codeOfOptionError, codeOfReplyError, optionErrorOf, replyErrorOf } from './errors.ts';
import { commands, isOptionError, nbdErrors, optionReplies } from './protocol.ts';

const codes = Object.keys(errorCodes).filter(isErrorCode);

describe('replies', () => {
  test.each(codes)('%s has an error that is neither OK nor ENOTSUP', (code) => {
    for (const command of Object.values(commands)) {
      const error = replyErrorOf(new VolumeError(code, 'x: y'), command);
      expect(Object.values(nbdErrors)).toContain(error);
      expect([nbdErrors.OK, nbdErrors.ENOTSUP]).not.toContain(error);
    }
  });

  test.each([
    ['WRITE', nbdErrors.ENOSPC],
    ['WRITE_ZEROES', nbdErrors.ENOSPC],
    ['READ', nbdErrors.EINVAL],
    ['TRIM', nbdErrors.EINVAL],
    ['CACHE', nbdErrors.EINVAL],
    ['BLOCK_STATUS', nbdErrors.EINVAL],
  ] as const)('%s past the end is error %i', (name, error) => {
    const beyond = new VolumeError('BEYOND_END', 'x: y');
    expect(replyErrorOf(beyond, commands[name])).toBe(error);
  });

  test('what is no VolumeError is EIO', () => {
    expect(replyErrorOf(new TypeError('bug'), commands.READ)).toBe(nbdErrors.EIO);
    expect(replyErrorOf('text', commands.READ)).toBe(nbdErrors.EIO);
  });

  test('the client turns errors back into codes, unknown ones into INTERNAL', () => {
    expect(codeOfReplyError(nbdErrors.ENOSPC)).toBe('OUT_OF_SPACE');
    expect(codeOfReplyError(nbdErrors.EPERM)).toBe('READ_ONLY');
    expect(codeOfReplyError(12345)).toBe('INTERNAL');
  });
});

describe('option replies', () => {
  test.each(codes)('%s has an error', (code) => {
    expect(isOptionError(optionErrorOf(new VolumeError(code, 'x: y')))).toBe(true);
  });

  test('missing exports are UNKNOWN, those in use POLICY, anything unknown POLICY', () => {
    expect(optionErrorOf(new VolumeError('VOLUME_NOT_FOUND', ''))).toBe(optionReplies.ERR_UNKNOWN);
    expect(optionErrorOf(new VolumeError('VOLUME_IN_USE', ''))).toBe(optionReplies.ERR_POLICY);
    expect(optionErrorOf(new Error('bug'))).toBe(optionReplies.ERR_POLICY);
    expect(optionErrorOf(new VolumeError('LIMIT_REACHED', ''))).toBe(optionReplies.ERR_SHUTDOWN);
  });

  test('the client knows every error and takes an unknown one for a broken server', () => {
    for (const reply of Object.values(optionReplies)) {
      if (isOptionError(reply)) expect(codeOfOptionError(reply)).not.toBe('PROTOCOL_ERROR');
    }
    expect(codeOfOptionError(0x8000_1234)).toBe('PROTOCOL_ERROR');
  });
});
