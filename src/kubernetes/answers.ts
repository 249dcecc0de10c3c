/** What an answer of the API server means: its JSON, or the error that its status and its Status object stand for. */
import { z } from 'zod';
import { describePermission, describeRequest, type ApiRequest } from './api-request.ts';
import { KubernetesError, type KubernetesErrorKind } from './errors.ts';

export interface Answer {
  readonly httpStatus: number;
  readonly body: string;
  /** Of the header Retry-After, in seconds. */
  readonly retryAfter: string | undefined;
}

const statusSchema = z.object({
  kind: z.literal('Status'),
  message: z.string().nullish(),
  reason: z.string().nullish(),
  code: z.number().nullish(),
  details: z.object({ name: z.string().nullish() }).nullish(),
});

const namedSchema = z.object({ metadata: z.object({ name: z.string() }) });

export type Status = z.infer<typeof statusSchema>;

const kindsOfStatus: Readonly<Record<number, KubernetesErrorKind>> = {
  400: 'invalid',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'notFound',
  409: 'conflict',
  410: 'gone',
  422: 'invalid',
  429: 'unavailable',
};

/** The answer's JSON. Throws the KubernetesError that it stands for. */
export function readAnswer(request: ApiRequest, answer: Answer): unknown {
  const json = parseJson(answer.body);
  if (answer.httpStatus >= 200 && answer.httpStatus < 300 && json !== undefined) {
    checkName(request, json);
    return json;
  }
  const status = readStatus(json);
  throw errorOf(request, answer, status);
}

/** Decisions about one node must not be made by what is said of another. */
function checkName(request: ApiRequest, json: unknown): void {
  if (request.verb !== 'get') return;
  const parsed = namedSchema.safeParse(json);
  if (parsed.success && parsed.data.metadata.name === request.name) return;
  const what = describeRequest(request);
  throw new KubernetesError('protocol', `${what}: the answer is not that object`);
}

/** The error that a Status object stands for, which comes as an event of a watch. */
export function errorOfWatchEvent(request: ApiRequest, object: unknown): KubernetesError {
  const status = readStatus(object);
  const httpStatus = status?.code ?? 0;
  return errorOf(request, { httpStatus, body: '', retryAfter: undefined }, status);
}

function errorOf(request: ApiRequest, answer: Answer, status: Status | undefined): KubernetesError {
  const kind = kindOf(request, answer.httpStatus, status);
  const said = status?.message ?? `HTTP status ${answer.httpStatus} without an explanation`;
  const advice = kind === 'forbidden' ? `; missing is ${describePermission(request)}` : '';
  return new KubernetesError(kind, `${describeRequest(request)}: ${said}${advice}`, {
    ...retryAfterOf(answer),
  });
}

function kindOf(
  request: ApiRequest,
  httpStatus: number,
  status: Status | undefined,
): KubernetesErrorKind {
  if (httpStatus >= 500) return 'unavailable';
  // Without a Status it is not the API server that answers, but a proxy or something else at its address.
  if (status === undefined) return httpStatus === 429 ? 'unavailable' : 'protocol';
  if (httpStatus === 404) return isAboutObject(request, status) ? 'notFound' : 'protocol';
  if (httpStatus === 409 && status.reason === 'AlreadyExists') return 'alreadyExists';
  return kindsOfStatus[httpStatus] ?? 'protocol';
}

/**
 * A 404 also says that the API server does not know the resource. Callers take "not found" for "the node is gone" and
 * let volumes be used elsewhere, so only the very object that was asked for can be missing.
 */
function isAboutObject(request: ApiRequest, status: Status): boolean {
  if (status.reason !== 'NotFound') return false;
  // A create whose namespace is missing: the details name the namespace.
  if (request.verb === 'create') return true;
  return 'name' in request && status.details?.name === request.name;
}

function readStatus(json: unknown): Status | undefined {
  const parsed = statusSchema.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // What is no JSON is no answer: the caller says so with the HTTP status.
    return undefined;
  }
}

function retryAfterOf({ retryAfter }: Answer): { retryAfterMs?: number } {
  if (retryAfter === undefined || !/^\d{1,4}$/.test(retryAfter)) return {};
  return { retryAfterMs: Number(retryAfter) * 1000 };
}
