/**
 * How an error crosses our own APIs: the gRPC status is for tools that know nothing else, the product's code
 * travels in a trailer beside it, so that a client rejects with the same VolumeError as the service did.
 */
import { Metadata, status, type ServiceError } from '@grpc/grpc-js';
import { isErrorCode, VolumeError, type ErrorCode } from '../volumes/errors.ts';
import type { RpcStatus } from './grpc-server.ts';

export const errorCodeTrailer = 'volumedriver-error-code';

const apiStatus = {
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
  PERMISSION_DENIED: status.PERMISSION_DENIED,
  FENCED: status.FAILED_PRECONDITION,
  HALTED: status.FAILED_PRECONDITION,
  CORRUPT: status.DATA_LOSS,
  UNAVAILABLE: status.UNAVAILABLE,
  SNAPSHOT_TIMEOUT: status.DEADLINE_EXCEEDED,
  MOVED: status.FAILED_PRECONDITION,
  SHUTTING_DOWN: status.UNAVAILABLE,
  PROTOCOL_ERROR: status.INTERNAL,
  INTERNAL: status.INTERNAL,
} as const satisfies Record<ErrorCode, status>;

export function toApiStatus(path: string, error: VolumeError): RpcStatus {
  const metadata = new Metadata();
  metadata.set(errorCodeTrailer, error.code);
  const details = error.message === '' ? `${path}: failed with ${error.code}` : error.message;
  return { code: apiStatus[error.code], details, metadata };
}

/**
 * What a status means when it comes without our trailer: from gRPC itself, or from somebody else's server. Whatever is
 * not in here says nothing about the work, INTERNAL and RESOURCE_EXHAUSTED neither, by which gRPC names connections that
 * broke and streams that were cut: the call may have done it.
 */
const codeOfStatus: Partial<Record<status, ErrorCode>> = {
  [status.INVALID_ARGUMENT]: 'INVALID_ARGUMENT',
  [status.OUT_OF_RANGE]: 'OUT_OF_RANGE',
  [status.UNIMPLEMENTED]: 'NOT_IMPLEMENTED',
  [status.PERMISSION_DENIED]: 'PERMISSION_DENIED',
  [status.UNAUTHENTICATED]: 'PERMISSION_DENIED',
  [status.DATA_LOSS]: 'CORRUPT',
  [status.ABORTED]: 'OPERATION_PENDING',
};

/** `peer` is whom the call went to: it is named when the answer is gRPC's own and not the service's. */
export function fromApiStatus(error: ServiceError, peer: string): VolumeError {
  const [code] = error.metadata.get(errorCodeTrailer);
  if (isErrorCode(code)) return new VolumeError(code, error.details);
  const fallback = codeOfStatus[error.code] ?? 'UNAVAILABLE';
  const why =
    error.code === status.UNAVAILABLE
      ? `it does not answer (${connectionReason(error)})`
      : error.details;
  return new VolumeError(fallback, `call ${peer}: ${why}`, { cause: error });
}

/** grpc-js wraps the reason of a failed connection in words of its own, and OpenSSL in many numbers. */
function connectionReason({ details }: ServiceError): string {
  const match = /Last error: (?:\w*Error: )?(.*?)\.? Resolution note: /s.exec(details);
  const reason = (match?.[1] ?? details).trim().replace(/ \(\d{4}-\d\d-\d\dT[\d:.]+Z\)$/, '');
  const alert = /:SSL routines:[^:]*:([^:]+):/.exec(reason)?.[1];
  if (alert !== undefined) return `TLS: ${alert}`;
  if (reason !== 'Failed to connect') return reason;
  return 'it ended the connection at once; over TLS that means that it does not accept our certificate';
}
