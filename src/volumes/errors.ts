/**
 * The errors that cross module borders. A code is required, and each has one errno (the name that
 * libovsvolumedriver(7) uses where it names one). Edges translate codes by total maps of their own:
 * src/csi/status.ts (gRPC) and src/nbd/errors.ts (NBD). docs/errors.md describes every code.
 */
export const errorCodes = {
  INVALID_ARGUMENT: 'EINVAL',
  VOLUME_NOT_FOUND: 'ENOENT',
  SNAPSHOT_NOT_FOUND: 'ENOENT',
  NODE_NOT_FOUND: 'ENOENT',
  /** A path or device on a node that was expected to exist does not. */
  PATH_NOT_FOUND: 'ENOENT',
  ALREADY_EXISTS: 'EEXIST',
  /** The volume has a client or a grant that excludes the operation. */
  VOLUME_IN_USE: 'EBUSY',
  /** A snapshot or volume has clones, or snapshots in the way. */
  HAS_CLONES: 'ENOTEMPTY',
  /** Another operation on the same volume or name is running: repeat the call later. */
  OPERATION_PENDING: 'EAGAIN',
  BAD_PAGE_TOKEN: 'EINVAL',
  /** A requested capacity that cannot be provided, such as shrinking. */
  OUT_OF_RANGE: 'ERANGE',
  /** I/O past the end of the device. */
  BEYOND_END: 'EFBIG',
  OUT_OF_SPACE: 'ENOSPC',
  LIMIT_REACHED: 'EMFILE',
  NOT_CAPABLE: 'ENOTSUP',
  NOT_IMPLEMENTED: 'ENOSYS',
  READ_ONLY: 'EROFS',
  /** The caller is not one that may do that: see its certificate or token. */
  PERMISSION_DENIED: 'EACCES',
  /** A newer owner or a newer grant exists: nothing that this client does can become part of the volume. */
  FENCED: 'ESTALE',
  /** The volume stopped after a failed write or sync and must be opened again. */
  HALTED: 'EIO',
  /** Stored data does not match its checksum or format. */
  CORRUPT: 'EIO',
  /** A dependency did not answer; the work may still have been done. */
  UNAVAILABLE: 'ETIMEDOUT',
  /** A snapshot was not synced within the requested time; it was removed again. */
  SNAPSHOT_TIMEOUT: 'ETIMEDOUT',
  /** Another volumedriver has the volume open; the message names its node and endpoint. */
  MOVED: 'EREMOTE',
  SHUTTING_DOWN: 'ESHUTDOWN',
  PROTOCOL_ERROR: 'EPROTO',
  INTERNAL: 'EIO',
} as const;

export type ErrorCode = keyof typeof errorCodes;

/**
 * An operating error: something that a correct program meets. The message has the form "<what failed>: <why>",
 * says what would be right where that is known, and holds no secrets.
 */
export class VolumeError extends Error {
  override readonly name = 'VolumeError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }

  get errno(): string {
    return errorCodes[this.code];
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorCodes, value);
}

/** Wraps anything thrown into a VolumeError; an unknown error becomes `fallback`, with the original as its cause. */
export function toVolumeError(
  error: unknown,
  what: string,
  fallback: ErrorCode = 'INTERNAL',
): VolumeError {
  if (error instanceof VolumeError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new VolumeError(fallback, `${what}: ${message}`, { cause: error });
}

export function hasCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof VolumeError && error.code === code;
}
