/**
 * A cluster of nodes in memory, each with a volumedriver of its own (MemoryVolumeService) in a pod, as a controller sees
 * it: pods, registrations, nodes, and connections. A test stops nodes, replaces pods, gives nodes up, and takes the API
 * server away.
 */
import { silentLogger } from '../../src/base/logger.ts';
import { ForwardedVolumes } from '../../src/controller/forwarded-volumes.ts';
import {
  KubernetesVolumedrivers,
  type PodSource,
  type RegistrationStore,
} from '../../src/controller/kubernetes-volumedrivers.ts';
import type { NodeRegistry } from '../../src/controller/node-registry.ts';
import type {
  VolumedriverConnection,
  VolumedriverPlace,
} from '../../src/controller/volumedriver-link.ts';
import { KubernetesError } from '../../src/kubernetes/errors.ts';
import type { Registration } from '../../src/kubernetes/registrations.ts';
import type { VolumedriverPod } from '../../src/kubernetes/volumedriver-pods.ts';
import { VolumeError } from '../../src/volumes/errors.ts';
import { MemoryVolumeService, type MemoryVolumeServiceOptions } from './memory-volume-service.ts';
import { TestClock } from './test-clock.ts';

export interface MemoryNode {
  readonly nodeId: string;
  readonly backendId: string;
  volumes: MemoryVolumeService;
  /** Whether its volumedriver answers. */
  running: boolean;
  pod: VolumedriverPod | null;
}

export class MemoryCluster implements RegistrationStore, NodeRegistry {
  readonly clock = new TestClock();
  readonly nodes = new Map<string, MemoryNode>();
  readonly registrations = new Map<string, Registration>();
  /** Nodes that were deleted or are out of service. */
  readonly gone = new Set<string>();
  apiServerAway = false;
  readonly #listeners = new Set<() => void>();
  #podsMade = 0;

  readonly pods = {
    synced: true as boolean,
    list: () => this.#pods(),
    ofNode: (nodeId: string) => this.nodes.get(nodeId)?.pod ?? undefined,
    onChange: (listener: () => void) => {
      this.#listeners.add(listener);
      return () => this.#listeners.delete(listener);
    },
  } satisfies PodSource;

  /** `options` may make its volumedriver call itself and its backend differently. */
  addNode(
    nodeId: string,
    backendId: string,
    options: MemoryVolumeServiceOptions & { running?: boolean } = {},
  ): MemoryNode {
    const { running = true, ...more } = options;
    const volumes = new MemoryVolumeService({ nodeId, backendId, ...more });
    const node = { nodeId, backendId, volumes, running, pod: null };
    this.nodes.set(nodeId, node);
    this.replacePod(node);
    return node;
  }

  /** The node's pod is another one from now on; null: it has none. */
  replacePod(node: MemoryNode, ip: string | null = '192.0.2.1'): void {
    this.#podsMade += 1;
    const uid = `uid-${this.#podsMade}`;
    const { nodeId } = node;
    node.pod = {
      ...{ name: `volumedriver-${this.#podsMade}`, uid, nodeId, ip },
      ...{ ready: node.running, terminating: false, createdAtMs: this.#podsMade },
    };
    this.#changed();
  }

  removePod(node: MemoryNode): void {
    node.pod = null;
    this.#changed();
  }

  /** The node's disk was replaced: the next answer is that of an empty backend with another id. */
  replaceBackend(node: MemoryNode, backendId: string): void {
    node.volumes = new MemoryVolumeService({ nodeId: node.nodeId, backendId });
    this.replacePod(node);
  }

  /** A controller replica's view; to be closed by the test. */
  openVolumedrivers(): KubernetesVolumedrivers {
    return new KubernetesVolumedrivers({
      pods: this.pods,
      registrations: this,
      nodes: this,
      connect: (place) => this.#connect(place),
      logger: silentLogger,
      clock: this.clock,
    });
  }

  async list(): Promise<Registration[]> {
    await this.#askApiServer();
    return [...this.registrations.values()];
  }

  async ensure(
    backend: Omit<Registration, 'forgotten'>,
    mayMove: (from: Registration) => Promise<boolean>,
  ): Promise<Registration> {
    await this.#askApiServer();
    const stored = this.registrations.get(backend.backendId);
    const moves = stored !== undefined && stored.nodeId !== backend.nodeId && !backend.shared;
    if (moves && !(await mayMove(stored))) return stored;
    const registration = { ...backend, forgotten: stored?.forgotten ?? false };
    this.registrations.set(backend.backendId, registration);
    return registration;
  }

  /** As vdctl node forget and vdctl node remember do. */
  mark(nodeId: string, forgotten: boolean): void {
    for (const one of this.registrations.values()) {
      if (one.nodeId === nodeId) this.registrations.set(one.backendId, { ...one, forgotten });
    }
  }

  async isKnownNode(nodeId: string): Promise<boolean> {
    await this.#askApiServer();
    return this.nodes.has(nodeId);
  }

  async isGone(nodeId: string): Promise<boolean> {
    await this.#askApiServer();
    return this.gone.has(nodeId);
  }

  #connect({ uid, nodeId }: VolumedriverPlace): VolumedriverConnection {
    let closed = false;
    const reach = (): Promise<MemoryVolumeService> => {
      const node = this.nodes.get(nodeId);
      if (!closed && node?.running === true && node.pod?.uid === uid) {
        return Promise.resolve(node.volumes);
      }
      return Promise.reject(new VolumeError('UNAVAILABLE', 'call: it does not answer'));
    };
    const volumes = new ForwardedVolumes(async (work) => await work(await reach()));
    return Object.assign(volumes, {
      close: () => {
        closed = true;
      },
    });
  }

  #pods(): VolumedriverPod[] {
    return [...this.nodes.values()].map((node) => node.pod).filter((pod) => pod !== null);
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  #askApiServer(): Promise<void> {
    if (!this.apiServerAway) return Promise.resolve();
    return Promise.reject(new KubernetesError('unavailable', 'it does not answer'));
  }
}
