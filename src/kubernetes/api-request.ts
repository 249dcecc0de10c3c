/** One request to the API server: where it goes, how it is named in messages, and what permission it needs. */

export interface Resource {
  /** '' is the core group. */
  readonly group: '' | 'authentication.k8s.io' | 'storage.k8s.io';
  readonly plural: string;
  readonly kind: string;
}

/** All that this product asks for; every one of them is at version v1. */
export const resources = {
  configMaps: { group: '', plural: 'configmaps', kind: 'ConfigMap' },
  csiNodes: { group: 'storage.k8s.io', plural: 'csinodes', kind: 'CSINode' },
  events: { group: '', plural: 'events', kind: 'Event' },
  nodes: { group: '', plural: 'nodes', kind: 'Node' },
  persistentVolumes: { group: '', plural: 'persistentvolumes', kind: 'PersistentVolume' },
  pods: { group: '', plural: 'pods', kind: 'Pod' },
  tokenReviews: { group: 'authentication.k8s.io', plural: 'tokenreviews', kind: 'TokenReview' },
} as const satisfies Record<string, Resource>;

/** What is listed and watched. */
export interface Collection {
  readonly resource: Resource;
  /** Absent: cluster-scoped, or all namespaces. */
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
}

/**
 * Each may be sent twice without harm, which is why all of them are retried: names are given by us, so that a repeated
 * create meets AlreadyExists, and an update carries the version that it read, so that a repeated one meets a conflict.
 */
export type ApiRequest =
  | { readonly verb: 'list' | 'watch'; readonly collection: Collection; readonly query: Query }
  | {
      readonly verb: 'get';
      readonly resource: Resource;
      readonly namespace?: string;
      readonly name: string;
    }
  | {
      readonly verb: 'create' | 'update';
      readonly resource: Resource;
      readonly namespace?: string;
      /** For messages, and for an update. */
      readonly name: string;
      readonly body: object;
    };

export type Query = Readonly<Record<string, string>>;

const methods = { get: 'GET', list: 'GET', watch: 'GET', create: 'POST', update: 'PUT' } as const;

export function methodOf(request: ApiRequest): (typeof methods)[ApiRequest['verb']] {
  return methods[request.verb];
}

/** Path and query, below the server's address. */
export function pathOf(request: ApiRequest): string {
  const { resource, namespace } = placeOf(request);
  const prefix = resource.group === '' ? '/api/v1' : `/apis/${resource.group}/v1`;
  const scope = namespace === undefined ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  const path = `${prefix}${scope}/${resource.plural}`;
  switch (request.verb) {
    case 'list':
    case 'watch':
      return `${path}?${queryOf(request.collection, request.query)}`;
    case 'create':
      return path;
    case 'get':
    case 'update':
      return `${path}/${encodeURIComponent(request.name)}`;
  }
}

/** Names reach us in CSI requests: one that is no name must not become another path (or a list of everything). */
export function isObjectName(name: string): boolean {
  return name.length <= 253 && /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(name);
}

/** Such as "get Node n1" or "list Pods in namespace storage". */
export function describeRequest(request: ApiRequest): string {
  const { resource, namespace } = placeOf(request);
  const where = namespace === undefined ? '' : ` in namespace ${namespace}`;
  if ('collection' in request) {
    return `${request.verb} ${resource.kind}s${where}`;
  }
  // A TokenReview has no name.
  const name = request.name === '' ? '' : ` ${request.name}`;
  return `${request.verb} ${resource.kind}${name}${where}`;
}

/** The RBAC rule without which the API server answers 403. */
export function describePermission(request: ApiRequest): string {
  const { resource, namespace } = placeOf(request);
  const group = resource.group === '' ? '""' : resource.group;
  const scope =
    namespace === undefined ? 'a ClusterRole' : `a Role in namespace ${namespace} or a ClusterRole`;
  return `${scope} with apiGroups [${group}], resources [${resource.plural}], verbs [${request.verb}]`;
}

function placeOf(request: ApiRequest): { resource: Resource; namespace?: string } {
  return 'collection' in request ? request.collection : request;
}

function queryOf(collection: Collection, query: Query): string {
  const { labelSelector, fieldSelector } = collection;
  const all = new URLSearchParams({
    ...query,
    ...(labelSelector === undefined ? {} : { labelSelector }),
    ...(fieldSelector === undefined ? {} : { fieldSelector }),
  });
  return all.toString();
}
