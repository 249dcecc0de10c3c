/** What all objects of the API have in common, and how the frames around them are read. */
import { z } from 'zod';
import { errorOfWatchEvent } from './answers.ts';
import { describeRequest, type ApiRequest } from './api-request.ts';
import { KubernetesError } from './errors.ts';

export const metadataSchema = z.object({
  name: z.string().min(1),
  namespace: z.string().optional(),
  uid: z.string().min(1),
  resourceVersion: z.string().min(1),
  labels: z.record(z.string(), z.string()).nullish(),
  creationTimestamp: z.string().nullish(),
  deletionTimestamp: z.string().nullish(),
});

const listSchema = z.object({
  metadata: z.object({ resourceVersion: z.string().min(1), continue: z.string().nullish() }),
  // Go writes an empty list as null.
  items: z.array(z.unknown()).nullable(),
});

const watchEventSchema = z.object({
  type: z.enum(['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK', 'ERROR']),
  object: z.unknown(),
});

/** One event of a watch; the object is as it came. */
export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: unknown;
}

export interface ListPage {
  readonly items: readonly unknown[];
  readonly resourceVersion: string;
  /** '' after the last page. */
  readonly continueFrom: string;
}

export function readListPage(request: ApiRequest, json: unknown): ListPage {
  const { metadata, items } = readObject(listSchema, json, describeRequest(request));
  return {
    items: items ?? [],
    resourceVersion: metadata.resourceVersion,
    continueFrom: metadata.continue ?? '',
  };
}

/** Throws the error that an ERROR event stands for. */
export function readWatchEvent(request: ApiRequest, line: string): WatchEvent {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (error) {
    throw new KubernetesError('protocol', `${describeRequest(request)}: a line is no JSON`, {
      cause: error,
    });
  }
  const { type, object } = readObject(watchEventSchema, json, describeRequest(request));
  if (type === 'ERROR') throw errorOfWatchEvent(request, object);
  return { type, object };
}

/** KubernetesError `protocol` when the object is not as the schema says. */
export function readObject<Schema extends z.ZodType>(
  schema: Schema,
  json: unknown,
  what: string,
): z.infer<Schema> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue === undefined ? '' : `${issue.path.join('.')}: ${issue.message}`;
  throw new KubernetesError('protocol', `${what}: the answer is not as expected (${where})`);
}
