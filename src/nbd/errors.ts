/**
 * The edge between VolumeError and the protocol, in both directions: total maps from a code to the error of a
 * reply and of an option reply, and from the protocol's errors to codes for our client. What a command does
 * not let say (ENOTSUP is for fast zeroing only) becomes EINVAL or EIO.
 */
import { VolumeError, type ErrorCode } from '../volumes/errors.ts';
import { commands, nbdErrors, optionReplies, type NbdError } from './protocol.ts';

const { EPERM, EIO, EINVAL, ENOMEM, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN } = nbdErrors;

const replyErrors = {
  INVALID_ARGUMENT: EINVAL,
  VOLUME_NOT_FOUND: EIO,
  SNAPSHOT_NOT_FOUND: EIO,
  NODE_NOT_FOUND: EIO,
  PATH_NOT_FOUND: EIO,
  ALREADY_EXISTS: EINVAL,
  VOLUME_IN_USE: EIO,
  HAS_CLONES: EIO,
  OPERATION_PENDING: EIO,
  BAD_PAGE_TOKEN: EINVAL,
  OUT_OF_RANGE: EINVAL,
  BEYOND_END: EINVAL,
  OUT_OF_SPACE: ENOSPC,
  LIMIT_REACHED: EIO,
  NOT_CAPABLE: EINVAL,
  NOT_IMPLEMENTED: EINVAL,
  READ_ONLY: EPERM,
  PERMISSION_DENIED: EPERM,
  FENCED: EIO,
  HALTED: EIO,
  CORRUPT: EIO,
  UNAVAILABLE: EIO,
  SNAPSHOT_TIMEOUT: EIO,
  MOVED: EIO,
  SHUTTING_DOWN: ESHUTDOWN,
  PROTOCOL_ERROR: EINVAL,
  INTERNAL: EIO,
} as const satisfies Record<ErrorCode, NbdError>;

/**
 * The error that answers `command` when the device failed with `error`. Anything that is no VolumeError is EIO.
 * Writing past the end is ENOSPC (proto.md, "NBD_CMD_WRITE"); reading or trimming there is EINVAL.
 */
export function replyErrorOf(error: unknown, command: number): NbdError {
  if (!(error instanceof VolumeError)) return EIO;
  if (error.code === 'BEYOND_END') return beyondEndError(command);
  return replyErrors[error.code];
}

export function beyondEndError(command: number): NbdError {
  return command === commands.WRITE || command === commands.WRITE_ZEROES ? ENOSPC : EINVAL;
}

/**
 * UNKNOWN says that there is no such export, and will be none: who has it attached gives it up. A generation is a part of
 * its name, so one that is FENCED is unknown. SHUTDOWN says: not now. POLICY is for all that may change in time.
 */
const optionErrors = {
  INVALID_ARGUMENT: optionReplies.ERR_UNKNOWN,
  VOLUME_NOT_FOUND: optionReplies.ERR_UNKNOWN,
  SNAPSHOT_NOT_FOUND: optionReplies.ERR_UNKNOWN,
  NODE_NOT_FOUND: optionReplies.ERR_UNKNOWN,
  PATH_NOT_FOUND: optionReplies.ERR_UNKNOWN,
  ALREADY_EXISTS: optionReplies.ERR_POLICY,
  VOLUME_IN_USE: optionReplies.ERR_POLICY,
  HAS_CLONES: optionReplies.ERR_POLICY,
  OPERATION_PENDING: optionReplies.ERR_SHUTDOWN,
  BAD_PAGE_TOKEN: optionReplies.ERR_INVALID,
  OUT_OF_RANGE: optionReplies.ERR_INVALID,
  BEYOND_END: optionReplies.ERR_INVALID,
  OUT_OF_SPACE: optionReplies.ERR_SHUTDOWN,
  LIMIT_REACHED: optionReplies.ERR_SHUTDOWN,
  NOT_CAPABLE: optionReplies.ERR_POLICY,
  NOT_IMPLEMENTED: optionReplies.ERR_UNSUP,
  READ_ONLY: optionReplies.ERR_POLICY,
  PERMISSION_DENIED: optionReplies.ERR_POLICY,
  FENCED: optionReplies.ERR_UNKNOWN,
  HALTED: optionReplies.ERR_POLICY,
  CORRUPT: optionReplies.ERR_POLICY,
  UNAVAILABLE: optionReplies.ERR_SHUTDOWN,
  SNAPSHOT_TIMEOUT: optionReplies.ERR_POLICY,
  MOVED: optionReplies.ERR_POLICY,
  SHUTTING_DOWN: optionReplies.ERR_SHUTDOWN,
  PROTOCOL_ERROR: optionReplies.ERR_INVALID,
  INTERNAL: optionReplies.ERR_POLICY,
} as const satisfies Record<ErrorCode, number>;

/** The option reply that tells why an export can't be opened or described. */
export function optionErrorOf(error: unknown): number {
  return error instanceof VolumeError ? optionErrors[error.code] : optionReplies.ERR_POLICY;
}

const codesOfReplies = new Map<number, ErrorCode>([
  [EPERM, 'READ_ONLY'],
  [EIO, 'INTERNAL'],
  [ENOMEM, 'LIMIT_REACHED'],
  [EINVAL, 'INVALID_ARGUMENT'],
  [ENOSPC, 'OUT_OF_SPACE'],
  [EOVERFLOW, 'OUT_OF_RANGE'],
  [ENOTSUP, 'NOT_CAPABLE'],
  [ESHUTDOWN, 'SHUTTING_DOWN'],
]);

/** What our client makes of a server's error number; an unknown one is INTERNAL (errno EIO). */
export function codeOfReplyError(error: number): ErrorCode {
  return codesOfReplies.get(error) ?? 'INTERNAL';
}

const codesOfOptions = new Map<number, ErrorCode>([
  [optionReplies.ERR_UNSUP, 'NOT_IMPLEMENTED'],
  [optionReplies.ERR_POLICY, 'VOLUME_IN_USE'],
  [optionReplies.ERR_INVALID, 'INVALID_ARGUMENT'],
  [optionReplies.ERR_PLATFORM, 'NOT_CAPABLE'],
  [optionReplies.ERR_TLS_REQD, 'NOT_CAPABLE'],
  [optionReplies.ERR_UNKNOWN, 'VOLUME_NOT_FOUND'],
  [optionReplies.ERR_SHUTDOWN, 'SHUTTING_DOWN'],
  [optionReplies.ERR_BLOCK_SIZE_REQD, 'NOT_CAPABLE'],
  [optionReplies.ERR_TOO_BIG, 'INVALID_ARGUMENT'],
]);

/** What our client makes of an error reply to an option. */
export function codeOfOptionError(replyType: number): ErrorCode {
  return codesOfOptions.get(replyType) ?? 'PROTOCOL_ERROR';
}
