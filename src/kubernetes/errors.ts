/**
 * The one error of src/kubernetes. Its message says what was asked of the API server, what came back and, where
 * that is known, what to do. It never holds a token or the content of an object.
 */

/** What a caller may do about it; the comments say what that is. */
export const kubernetesErrorKinds = [
  /** No answer in time, or the API server said that it can't at the moment (429, 5xx): ask again later. */
  'unavailable',
  /** 401: our own credentials are not accepted. */
  'unauthorized',
  /** 403: a permission is missing; the message names it. */
  'forbidden',
  /** 404, from an API server that knows the resource: there is no such object. */
  'notFound',
  /** 409 for a create: there is such an object. */
  'alreadyExists',
  /** 409 for an update: somebody else changed the object in between; read it again. */
  'conflict',
  /** 410: a watch or list would have to go on from a version that is no longer known; list anew. */
  'gone',
  /** 400, 422: the request makes no sense to the API server. */
  'invalid',
  /** An answer or an object that can't be understood. */
  'protocol',
  /** There is no usable configuration: which cluster, and as whom. */
  'misconfigured',
] as const;

export type KubernetesErrorKind = (typeof kubernetesErrorKinds)[number];

export class KubernetesError extends Error {
  override readonly name = 'KubernetesError';
  readonly kind: KubernetesErrorKind;
  /** How long the API server asked to be left alone. */
  readonly retryAfterMs: number | undefined;

  constructor(
    kind: KubernetesErrorKind,
    message: string,
    options: { cause?: unknown; retryAfterMs?: number } = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.kind = kind;
    this.retryAfterMs = options.retryAfterMs;
  }
}

export function isKubernetesError(
  error: unknown,
  kind?: KubernetesErrorKind,
): error is KubernetesError {
  return error instanceof KubernetesError && (kind === undefined || error.kind === kind);
}
