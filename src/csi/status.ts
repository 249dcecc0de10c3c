/**
 * The one place where an error code becomes a CSI status: a total map, checked by the compiler, and beside it the
 * few RPCs where the specification's tables ask for another code.
 */
import { status } from '@grpc/grpc-js';
import type { RpcStatus } from '../api/grpc-server.ts';
import type { ErrorCode, VolumeError } from '../volumes/errors.ts';

export const csiStatus = {
  INVALID_ARGUMENT: status.INVALID_ARGUMENT,
  VOLUME_NOT_FOUND: status.NOT_FOUND,
  SNAPSHOT_NOT_FOUND: status.NOT_FOUND,
  NODE_NOT_FOUND: status.NOT_FOUND,
  PATH_NOT_FOUND: status.NOT_FOUND,
  ALREADY_EXISTS: status.ALREADY_EXISTS,
  VOLUME_IN_USE: status.FAILED_PRECONDITION,
  HAS_CLONES: status.FAILED_PRECONDITION,
  OPERATION_PENDING: status.ABORTED,
  BAD_PAGE_TOKEN: status.ABORTED,
  OUT_OF_RANGE: status.OUT_OF_RANGE,
  BEYOND_END: status.OUT_OF_RANGE,
  OUT_OF_SPACE: status.RESOURCE_EXHAUSTED,
  LIMIT_REACHED: status.RESOURCE_EXHAUSTED,
  NOT_CAPABLE: status.FAILED_PRECONDITION,
  NOT_IMPLEMENTED: status.UNIMPLEMENTED,
  READ_ONLY: status.FAILED_PRECONDITION,
  // Two parts of the installation do not trust each other (yet): nothing was done, a retry may find it mended.
  PERMISSION_DENIED: status.UNAVAILABLE,
  FENCED: status.FAILED_PRECONDITION,
  HALTED: status.FAILED_PRECONDITION,
  CORRUPT: status.DATA_LOSS,
  UNAVAILABLE: status.UNAVAILABLE,
  // The snapshot was removed again or still runs: the caller's retry is right either way.
  SNAPSHOT_TIMEOUT: status.UNAVAILABLE,
  // The sidecar can only retry; by then the volume may be reachable again or its owner gone.
  MOVED: status.UNAVAILABLE,
  SHUTTING_DOWN: status.UNAVAILABLE,
  PROTOCOL_ERROR: status.INTERNAL,
  INTERNAL: status.INTERNAL,
} as const satisfies Record<ErrorCode, status>;

type Exceptions = Readonly<Record<string, Partial<Record<ErrorCode, status>>>>;

const exceptions: Exceptions = {
  // A capability that expansion does not support is the caller's argument, not a state (CSI, Expand errors).
  '/csi.v1.Controller/ControllerExpandVolume': { NOT_CAPABLE: status.INVALID_ARGUMENT },
  '/csi.v1.Node/NodeExpandVolume': { NOT_CAPABLE: status.INVALID_ARGUMENT },
};

/** Internal errors keep their reason, as every other does: messages hold no secrets and no stacks. */
export function toCsiStatus(path: string, error: VolumeError): RpcStatus {
  const code = exceptions[path]?.[error.code] ?? csiStatus[error.code];
  const details = error.message === '' ? `${path}: failed with ${error.code}` : error.message;
  return { code, details };
}
