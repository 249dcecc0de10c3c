/**
 * What the API server knows about nodes. Fencing hangs on it, so every answer is read when it is asked for: an answer
 * from memory could call a node gone that is back.
 */
import { z } from 'zod';
import { resources } from './api-request.ts';
import type { Cluster } from './cluster.ts';
import { isKubernetesError } from './errors.ts';
import { metadataSchema, readObject } from './objects.ts';

/** An administrator puts it on a node that is certainly off: nothing there uses a volume any more. */
export const outOfServiceTaint = 'node.kubernetes.io/out-of-service';

export interface NodeState {
  readonly nodeId: string;
  /** Whether there is a Node object of that name. */
  readonly exists: boolean;
  readonly ready: boolean;
  readonly outOfService: boolean;
}

export class Nodes {
  readonly #cluster: Cluster;
  readonly #driverName: string;

  constructor(options: { readonly cluster: Cluster; readonly driverName: string }) {
    this.#cluster = options.cluster;
    this.#driverName = options.driverName;
  }

  /** A missing Node is a state, not an error. */
  async state(nodeId: string): Promise<NodeState> {
    const object = await this.#get(resources.nodes, nodeId);
    if (object === undefined) return { nodeId, exists: false, ready: false, outOfService: false };
    return readNode(object, nodeId);
  }

  /** Whether Kubernetes says that nothing runs there any more: no Node object, or the out-of-service taint. */
  async isGone(nodeId: string): Promise<boolean> {
    const { exists, outOfService } = await this.state(nodeId);
    return !exists || outOfService;
  }

  /** Whether the driver's node service is registered there under this id. */
  async isKnownNode(nodeId: string): Promise<boolean> {
    const object = await this.#get(resources.csiNodes, nodeId);
    if (object === undefined) return false;
    const { spec } = readObject(csiNodeSchema, object, `read CSINode ${nodeId}`);
    const name = this.#driverName;
    return (spec.drivers ?? []).some((driver) => driver.name === name && driver.nodeID === nodeId);
  }

  async list(): Promise<NodeState[]> {
    const { items } = await this.#cluster.list({ resource: resources.nodes });
    return items.map((object) => readNode(object));
  }

  async #get(
    resource: typeof resources.nodes | typeof resources.csiNodes,
    name: string,
  ): Promise<unknown> {
    try {
      return await this.#cluster.request({ verb: 'get', resource, name });
    } catch (error) {
      if (isKubernetesError(error, 'notFound')) return undefined;
      throw error;
    }
  }
}

const nodeSchema = z.object({
  metadata: metadataSchema,
  spec: z.object({ taints: z.array(z.object({ key: z.string() })).nullish() }),
  status: z.object({
    conditions: z.array(z.object({ type: z.string(), status: z.string() })).nullish(),
  }),
});

const csiNodeSchema = z.object({
  metadata: metadataSchema,
  spec: z.object({
    drivers: z.array(z.object({ name: z.string(), nodeID: z.string() })).nullish(),
  }),
});

function readNode(object: unknown, expected?: string): NodeState {
  const what = `read Node${expected === undefined ? '' : ` ${expected}`}`;
  const { metadata, spec, status } = readObject(nodeSchema, object, what);
  return {
    nodeId: metadata.name,
    exists: true,
    ready: (status.conditions ?? []).some(
      (condition) => condition.type === 'Ready' && condition.status === 'True',
    ),
    outOfService: (spec.taints ?? []).some(({ key }) => key === outOfServiceTaint),
  };
}
