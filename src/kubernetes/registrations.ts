/**
 * Which backends there are and on which node each one's volumedriver runs: a ConfigMap per backend. It is written
 * before the first volume of a backend is made known, so a volume id whose backend has none is no id of ours. None is
 * ever removed: "forgotten" is a mark, so that a disk that comes back is recognized. Every answer is read when it is
 * asked for, since volumes count as deleted by it.
 */
import { z } from 'zod';
import { resources } from './api-request.ts';
import type { Cluster } from './cluster.ts';
import { isKubernetesError, KubernetesError } from './errors.ts';
import { metadataSchema, readObject } from './objects.ts';

export interface Backend {
  readonly backendId: string;
  /** Where it is, or was last. */
  readonly nodeId: string;
  /** Whether every node can use its volumes. */
  readonly shared: boolean;
}

export interface Registration extends Backend {
  /** An administrator gave it up, with all its volumes. */
  readonly forgotten: boolean;
}

export interface RegistrationsOptions {
  readonly cluster: Cluster;
  readonly namespace: string;
  /** At most 63 characters, as a label's value. */
  readonly driverName: string;
}

export const driverLabel = 'volumedriver.io/driver';

/** How often an update that met somebody else's is tried again. */
const updateTries = 5;

interface Stored {
  readonly registration: Registration;
  readonly resourceVersion: string;
}

export class Registrations {
  readonly #options: RegistrationsOptions;

  constructor(options: RegistrationsOptions) {
    this.#options = options;
  }

  async get(backendId: string): Promise<Registration | undefined> {
    return (await this.#read(backendId))?.registration;
  }

  /** All of them, the forgotten ones too, ordered by backend id. An unreadable one fails the list: it may not be skipped. */
  async list(): Promise<Registration[]> {
    const { cluster, namespace, driverName } = this.#options;
    const { items } = await cluster.list({
      resource: resources.configMaps,
      namespace,
      labelSelector: `${driverLabel}=${driverName}`,
    });
    return items
      .map((object) => readRegistration(object).registration)
      .sort((a, b) => (a.backendId < b.backendId ? -1 : 1));
  }

  /**
   * Registers the backend unless it is. One that is registered under another node stays there, unless `mayMove` says
   * that its disk has left that node. The answer is what is stored now; whether it was forgotten is left as it was, so
   * look at that, and at the node.
   */
  async ensure(
    backend: Backend,
    mayMove: (from: Registration) => Promise<boolean> = () => Promise.resolve(false),
  ): Promise<Registration> {
    return await this.#update(backend.backendId, async (stored) => {
      const moves = stored !== undefined && stored.nodeId !== backend.nodeId && !backend.shared;
      if (moves && !(await mayMove(stored))) return stored;
      return { ...backend, forgotten: stored?.forgotten ?? false };
    });
  }

  /**
   * Marks what only this node has: not a shared backend; of several, one alone when `backendId` says which. The answer
   * is all that is marked now, also what was before.
   */
  async forget(nodeId: string, backendId?: string): Promise<Registration[]> {
    return await this.#mark({ nodeId, backendId }, true);
  }

  /** Takes the mark away again, from the same backends as forget() gives it to. The answer is those. */
  async remember(nodeId: string, backendId?: string): Promise<Registration[]> {
    return await this.#mark({ nodeId, backendId }, false);
  }

  async #mark(
    wanted: { nodeId: string; backendId: string | undefined },
    forgotten: boolean,
  ): Promise<Registration[]> {
    const marked: Registration[] = [];
    const isOwn = ({ nodeId, backendId, shared }: Registration): boolean =>
      nodeId === wanted.nodeId && !shared && backendId === (wanted.backendId ?? backendId);
    for (const { backendId } of (await this.list()).filter(isOwn)) {
      const now = await this.#update(backendId, (stored) => {
        // It moved away while we looked: then it is not this node's any more.
        return stored !== undefined && isOwn(stored) ? { ...stored, forgotten } : stored;
      });
      if (isOwn(now)) marked.push(now);
    }
    return marked;
  }

  /** Stores what `change` makes of what is stored, once nobody else changed it in between. */
  async #update(
    backendId: string,
    change: (
      stored: Registration | undefined,
    ) => Registration | undefined | Promise<Registration | undefined>,
  ): Promise<Registration> {
    for (let left = updateTries; ; left -= 1) {
      const stored = await this.#read(backendId);
      const wanted = await change(stored?.registration);
      if (wanted === undefined) throw notRegistered(backendId);
      if (stored !== undefined && isSame(stored.registration, wanted)) return wanted;
      try {
        await this.#write(wanted, stored?.resourceVersion);
        return wanted;
      } catch (error) {
        const overtaken =
          isKubernetesError(error, 'conflict') || isKubernetesError(error, 'alreadyExists');
        if (!overtaken || left <= 1) throw error;
      }
    }
  }

  async #read(backendId: string): Promise<Stored | undefined> {
    const { cluster, namespace } = this.#options;
    const name = this.#nameOf(backendId);
    let object: unknown;
    try {
      const resource = resources.configMaps;
      object = await cluster.request({ verb: 'get', resource, namespace, name });
    } catch (error) {
      if (isKubernetesError(error, 'notFound')) return undefined;
      throw error;
    }
    const stored = readRegistration(object);
    if (
      stored.registration.backendId === backendId &&
      stored.driverName === this.#options.driverName
    )
      return stored;
    throw new KubernetesError(
      'protocol',
      `read ConfigMap ${name} in namespace ${namespace}: it is not the registration of backend ${backendId}`,
    );
  }

  async #write(registration: Registration, resourceVersion: string | undefined): Promise<void> {
    const { cluster, namespace, driverName } = this.#options;
    const name = this.#nameOf(registration.backendId);
    const body = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: {
        name,
        namespace,
        labels: { [driverLabel]: driverName },
        ...(resourceVersion === undefined ? {} : { resourceVersion }),
      },
      data: {
        backendId: registration.backendId,
        nodeId: registration.nodeId,
        shared: `${registration.shared}`,
        forgotten: `${registration.forgotten}`,
      },
    };
    const verb = resourceVersion === undefined ? 'create' : 'update';
    await cluster.request({ verb, resource: resources.configMaps, namespace, name, body });
  }

  #nameOf(backendId: string): string {
    return `${this.#options.driverName.toLowerCase().replace(/[^a-z0-9]+/g, '-')}-${backendId}`;
  }
}

const flag = z.enum(['true', 'false']).transform((text) => text === 'true');

const configMapSchema = z.object({
  metadata: metadataSchema,
  data: z.object({
    backendId: z.string().min(1),
    nodeId: z.string().min(1),
    shared: flag,
    forgotten: flag,
  }),
});

function readRegistration(object: unknown): Stored & { readonly driverName: string | undefined } {
  const { name } = readObject(namedSchema, object, 'read a ConfigMap').metadata;
  const { metadata, data } = readObject(configMapSchema, object, `read ConfigMap ${name}`);
  return {
    registration: data,
    resourceVersion: metadata.resourceVersion,
    driverName: metadata.labels?.[driverLabel],
  };
}

const namedSchema = z.object({ metadata: metadataSchema });

function isSame(left: Registration, right: Registration): boolean {
  return (
    left.nodeId === right.nodeId &&
    left.shared === right.shared &&
    left.forgotten === right.forgotten
  );
}

function notRegistered(backendId: string): KubernetesError {
  return new KubernetesError('notFound', `backend ${backendId} is not registered`);
}
