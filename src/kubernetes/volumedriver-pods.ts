/** The volumedrivers' pods, found by their labels: on which node each one is, and whether it answers. */
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { resources, type Collection } from './api-request.ts';
import type { Cluster } from './cluster.ts';
import { metadataSchema, readObject } from './objects.ts';
import { WatchedList, type WatchTimings } from './watched-list.ts';

export interface VolumedriverPod {
  readonly name: string;
  readonly uid: string;
  readonly nodeId: string;
  /** Null until the pod has one. */
  readonly ip: string | null;
  /** Its condition Ready, as the kubelet last said: a node that died takes a minute to become "not ready". */
  readonly ready: boolean;
  readonly terminating: boolean;
  /** Milliseconds since the Unix epoch. */
  readonly createdAtMs: number;
}

export interface PodSelection {
  readonly namespace: string;
  /** A label selector. */
  readonly selector: string;
}

export interface VolumedriverPodsOptions {
  readonly cluster: Cluster;
  readonly selection: PodSelection;
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly timings?: Partial<WatchTimings>;
}

/** Follows the pods. What it tells may be old: see silentForMs(). */
export class VolumedriverPods {
  readonly #pods: WatchedList<VolumedriverPod>;

  private constructor(pods: WatchedList<VolumedriverPod>) {
    this.#pods = pods;
  }

  /** Starts at once and goes on until close(), whatever the API server does. */
  static watch(options: VolumedriverPodsOptions): VolumedriverPods {
    const { selection, ...rest } = options;
    const collection = collectionOf(selection);
    return new VolumedriverPods(new WatchedList({ ...rest, collection, read: readPod }));
  }

  get synced(): boolean {
    return this.#pods.synced;
  }

  /** Rejects with a KubernetesError that says why when there was no list after `timeoutMs`. */
  async whenSynced(timeoutMs: number): Promise<void> {
    await this.#pods.whenSynced(timeoutMs);
  }

  /** One for each node that has any, ordered by node. */
  list(): readonly VolumedriverPod[] {
    return onePerNode(this.#pods.items());
  }

  ofNode(nodeId: string): VolumedriverPod | undefined {
    return this.list().find((pod) => pod.nodeId === nodeId);
  }

  /** Milliseconds since the API server was last heard; Infinity before the first list. */
  silentForMs(): number {
    return this.#pods.silentForMs();
  }

  /** Called after every change. Returns how to end that. */
  onChange(listener: () => void): () => void {
    return this.#pods.onChange(listener);
  }

  async close(): Promise<void> {
    await this.#pods.close();
  }
}

/** As the API server knows them now; one for each node that has any, ordered by node. */
export async function listVolumedriverPods(
  cluster: Cluster,
  selection: PodSelection,
): Promise<readonly VolumedriverPod[]> {
  const { items } = await cluster.list(collectionOf(selection));
  return onePerNode(items.map(readPod).filter((pod) => pod !== undefined));
}

function collectionOf({ namespace, selector }: PodSelection): Collection {
  return { resource: resources.pods, namespace, labelSelector: selector };
}

const podSchema = z.object({
  metadata: metadataSchema,
  spec: z.object({ nodeName: z.string().optional() }),
  status: z.object({
    phase: z.string().optional(),
    podIP: z.string().optional(),
    conditions: z.array(z.object({ type: z.string(), status: z.string() })).nullish(),
  }),
});

/** Undefined: on no node yet, or ended for good, so that nobody answers there. */
function readPod(object: unknown): VolumedriverPod | undefined {
  const { metadata, spec, status } = readObject(podSchema, object, 'read a Pod');
  const nodeId = spec.nodeName ?? '';
  if (nodeId === '' || status.phase === 'Succeeded' || status.phase === 'Failed') return undefined;
  const terminating = typeof metadata.deletionTimestamp === 'string';
  return {
    name: metadata.name,
    uid: metadata.uid,
    nodeId,
    ip: status.podIP === undefined || status.podIP === '' ? null : status.podIP,
    ready: !terminating && isReady(status.conditions ?? []),
    terminating,
    createdAtMs: Date.parse(metadata.creationTimestamp ?? '') || 0,
  };
}

function isReady(conditions: readonly { type: string; status: string }[]): boolean {
  return conditions.some(({ type, status }) => type === 'Ready' && status === 'True');
}

/** While a pod is replaced, a node may have two: the one that stays counts, and of those the newest. */
function onePerNode(pods: readonly VolumedriverPod[]): readonly VolumedriverPod[] {
  const chosen = new Map<string, VolumedriverPod>();
  for (const pod of pods) {
    const other = chosen.get(pod.nodeId);
    if (other === undefined || isBetter(pod, other)) chosen.set(pod.nodeId, pod);
  }
  return [...chosen.values()].sort((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
}

function isBetter(pod: VolumedriverPod, other: VolumedriverPod): boolean {
  if (pod.terminating !== other.terminating) return other.terminating;
  return pod.createdAtMs > other.createdAtMs;
}
