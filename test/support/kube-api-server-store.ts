/**
 * The objects of the API server double: versions that rise with every change, uids, optimistic locking, selectors, and
 * a history from which watches are served until it is compacted.
 */
import { randomUUID } from 'node:crypto';

export interface KubeObject {
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

/** As a client gives it. */
export interface NewObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly resourceVersion?: string;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

export interface Change {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly plural: string;
  readonly version: number;
  readonly object: KubeObject;
  /** What it was before a MODIFIED. */
  readonly old?: KubeObject;
}

export interface Filter {
  readonly plural: string;
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
}

/** An error as the API server reports it. */
export class StatusError extends Error {
  readonly code: number;
  readonly reason: string;
  readonly details: object;

  constructor(code: number, reason: string, message: string, details: object = {}) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.details = details;
  }
}

export const kinds: Readonly<Record<string, string>> = {
  configmaps: 'ConfigMap',
  csinodes: 'CSINode',
  events: 'Event',
  nodes: 'Node',
  persistentvolumes: 'PersistentVolume',
  pods: 'Pod',
};

export class KubeStore {
  #version = 1000;
  /** Older ones can't be watched from. */
  #compactedVersion = 0;
  readonly #objects = new Map<string, KubeObject>();
  #history: Change[] = [];
  readonly #listeners = new Set<(change: Change) => void>();

  get version(): number {
    return this.#version;
  }

  get(plural: string, namespace: string | undefined, name: string): KubeObject {
    const object = this.#objects.get(keyOf(plural, namespace, name));
    if (object === undefined) throw notFound(plural, name);
    return object;
  }

  list(filter: Filter): KubeObject[] {
    return [...this.#objects.entries()]
      .filter(([key]) => key.startsWith(`${filter.plural}/`))
      .map(([, object]) => object)
      .filter((object) => matches(object, filter));
  }

  create(plural: string, given: NewObject): KubeObject {
    const { name, namespace } = given.metadata;
    if (this.#objects.has(keyOf(plural, namespace, name))) {
      const message = `${plural} "${name}" already exists`;
      throw new StatusError(409, 'AlreadyExists', message, { name, kind: plural });
    }
    return this.#store('ADDED', plural, given, {
      uid: randomUUID(),
      creationTimestamp: new Date().toISOString(),
    });
  }

  update(plural: string, given: NewObject): KubeObject {
    const { name, namespace, resourceVersion } = given.metadata;
    const old = this.get(plural, namespace, name);
    if (resourceVersion !== undefined && resourceVersion !== old.metadata.resourceVersion) {
      const message = `Operation cannot be fulfilled on ${plural} "${name}": the object has been modified`;
      throw new StatusError(409, 'Conflict', message, { name, kind: plural });
    }
    const { uid, creationTimestamp } = old.metadata;
    return this.#store('MODIFIED', plural, given, { uid, creationTimestamp });
  }

  /** Creates or replaces, whatever version is there. */
  put(plural: string, given: NewObject): KubeObject {
    const { name, namespace } = given.metadata;
    const exists = this.#objects.has(keyOf(plural, namespace, name));
    return exists ? this.update(plural, given) : this.create(plural, given);
  }

  delete(plural: string, namespace: string | undefined, name: string): void {
    const object = this.get(plural, namespace, name);
    this.#objects.delete(keyOf(plural, namespace, name));
    this.#version += 1;
    const metadata = { ...object.metadata, resourceVersion: `${this.#version}` };
    this.#tell({
      type: 'DELETED',
      plural,
      version: this.#version,
      object: { ...object, metadata },
    });
  }

  /** Watches can't go on from what was until now. */
  compact(): void {
    this.#version += 1;
    this.#compactedVersion = this.#version;
    this.#history = [];
  }

  /** Throws 410 when the version is too old. */
  since(version: number): readonly Change[] {
    if (version < this.#compactedVersion) {
      const message = `too old resource version: ${version} (${this.#compactedVersion})`;
      throw new StatusError(410, 'Expired', message);
    }
    return this.#history.filter((change) => change.version > version);
  }

  onChange(listener: (change: Change) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #store(
    type: 'ADDED' | 'MODIFIED',
    plural: string,
    given: NewObject,
    own: Readonly<Record<string, unknown>>,
  ): KubeObject {
    this.#version += 1;
    const metadata = { ...own, ...given.metadata, resourceVersion: `${this.#version}` };
    const object = {
      apiVersion: 'v1',
      ...given,
      kind: kinds[plural] ?? plural,
      metadata,
    } as unknown as KubeObject;
    const key = keyOf(plural, given.metadata.namespace, given.metadata.name);
    const old = this.#objects.get(key);
    this.#objects.set(key, object);
    const change = { type, plural, version: this.#version, object };
    this.#tell(old === undefined ? change : { ...change, old });
    return object;
  }

  #tell(change: Change): void {
    this.#history.push(change);
    for (const listener of this.#listeners) listener(change);
  }
}

export function matches(object: KubeObject, filter: Filter): boolean {
  const { metadata } = object;
  if (filter.namespace !== undefined && metadata.namespace !== filter.namespace) return false;
  const field = /^metadata\.name=(.*)$/.exec(filter.fieldSelector ?? '');
  if (field !== null && metadata.name !== field[1]) return false;
  return (filter.labelSelector ?? '')
    .split(',')
    .filter((term) => term !== '')
    .every((term) => {
      const [, key = '', operator, value] = /^([^=!]+)(!=|==?)(.*)$/.exec(term) ?? [];
      return (metadata.labels?.[key] === value) === (operator !== '!=');
    });
}

export function notFound(plural: string, name: string): StatusError {
  return new StatusError(404, 'NotFound', `${plural} "${name}" not found`, { name, kind: plural });
}

function keyOf(plural: string, namespace: string | undefined, name: string): string {
  return `${plural}/${namespace ?? ''}/${name}`;
}
