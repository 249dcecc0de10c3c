/**
 * The installed driver, from outside: its pods, what its engines hold, and how its processes are killed. Labels and
 * container names are the chart's.
 */
import type { V1ContainerStatus, V1PersistentVolume, V1Pod } from '@kubernetes/client-node';
import type { ClusterNode } from '../provider.ts';
import { podReference, type Kube } from './kube.ts';
import type { Release } from './state.ts';
import { until } from './waiting.ts';

export const components = {
  controller: 'controller',
  node: 'node',
  dataPlane: 'data-plane',
} as const;
export type Component = (typeof components)[keyof typeof components];

/** What `vdctl volume ls -o json` says of a volume, as far as it matters here. */
export interface EngineVolume {
  readonly id: string;
  readonly name: string;
}

export interface NamedPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly node: string;
  readonly pod: V1Pod;
}

export class Driver {
  readonly #kube: Kube;
  readonly release: Release;

  constructor(kube: Kube, release: Release) {
    this.#kube = kube;
    this.release = release;
  }

  get name(): string {
    return this.release.driverName;
  }

  get topologyKey(): string {
    return `${this.name}/node`;
  }

  /** Those that are not being deleted. */
  async pods(component: Component, node?: string): Promise<NamedPod[]> {
    const labels = `app.kubernetes.io/instance=${this.release.name},app.kubernetes.io/component=${component}`;
    const { namespace } = this.release;
    const pods = await this.#kube.list<V1Pod>('v1', 'Pod', { namespace, labels });
    return pods
      .filter(({ metadata }) => metadata?.deletionTimestamp === undefined)
      .map((pod) => ({
        namespace,
        name: pod.metadata?.name ?? '',
        uid: pod.metadata?.uid ?? '',
        node: pod.spec?.nodeName ?? '',
        pod,
      }))
      .filter((pod) => node === undefined || pod.node === node);
  }

  async pod(component: Component, node: string): Promise<NamedPod> {
    const [pod] = await this.pods(component, node);
    if (pod === undefined) throw new Error(`no ${component} pod on ${node}`);
    return pod;
  }

  /** As many as wanted, all ready. */
  async untilReady(component: Component, count: number, limitMs = 180_000): Promise<void> {
    await until(
      `${count} ${component} pods are ready`,
      async () => {
        const pods = await this.pods(component);
        return pods.length === count && pods.every(({ pod }) => isReady(pod)) ? true : undefined;
      },
      { limitMs, lastSeen: () => this.#describe(component) },
    );
  }

  /** Deletes a pod and waits until another one is ready in its place. */
  async replace(component: Component, node: string, limitMs = 180_000): Promise<void> {
    const old = await this.pod(component, node);
    await this.#kube.remove(podReference(old));
    await until(
      `another ${component} pod is ready on ${node}`,
      async () => {
        const pods = await this.pods(component, node);
        return pods.some(({ uid, pod }) => uid !== old.uid && isReady(pod)) ? true : undefined;
      },
      { limitMs, lastSeen: () => this.#describe(component) },
    );
  }

  /** kill -9 of all that runs in a container. Resolves once it has been started again and is ready. */
  async killContainer(component: Component, container: string, node: ClusterNode): Promise<void> {
    const victim = await this.pod(component, node.name);
    const before = statusOf(victim.pod, container);
    await this.signalContainer(victim, container, node);
    await until(
      `${container} of ${victim.name} has been started again`,
      async () => {
        const pod = await this.#kube.read<V1Pod>(podReference(victim));
        const now = pod === undefined ? undefined : statusOf(pod, container);
        return now?.ready === true && now.containerID !== before?.containerID ? true : undefined;
      },
      { limitMs: 120_000, lastSeen: () => this.#describe(component) },
    );
  }

  /** kill -9 of all that runs in a container, and no more than that. */
  async signalContainer(victim: NamedPod, container: string, node: ClusterNode): Promise<void> {
    const id = (statusOf(victim.pod, container)?.containerID ?? '').replace(/^.*:\/\//, '');
    if (id === '') throw new Error(`${container} of ${victim.name} does not run`);
    await node.run(['sh', '-c', killScript, 'sh', id]);
  }

  /** vdctl, in the data-plane pod of a node. */
  async vdctl(node: string, ...command: string[]): Promise<unknown> {
    const pod = await this.pod(components.dataPlane, node);
    const socket = `unix:/run/${this.name}/api.sock`;
    const answer = await this.#kube.exec(
      pod,
      ['vdctl', '--api', socket, '-o', 'json', ...command],
      { container: 'volumedriver' },
    );
    return JSON.parse(answer) as unknown;
  }

  async engineVolumes(node: string): Promise<EngineVolume[]> {
    return (await this.vdctl(node, 'volume', 'ls')) as EngineVolume[];
  }

  /** Ids of the volumes of all nodes' engines, sorted. */
  async allEngineVolumeIds(nodes: readonly string[]): Promise<string[]> {
    const lists = await Promise.all(nodes.map((node) => this.engineVolumes(node)));
    return lists
      .flat()
      .map(({ id }) => id)
      .sort();
  }

  /** Handles of this driver's PVs, sorted. */
  async persistentVolumeHandles(): Promise<string[]> {
    const volumes = await this.#kube.list<V1PersistentVolume>('v1', 'PersistentVolume');
    return volumes
      .flatMap(({ spec }) => (spec?.csi?.driver === this.name ? [spec.csi.volumeHandle] : []))
      .sort();
  }

  async #describe(component: Component): Promise<string> {
    const pods = await this.pods(component);
    const about = await Promise.all(pods.map((pod) => this.#kube.aboutObject(podReference(pod))));
    return about.join('\n');
  }
}

/** Every process whose cgroup carries the container's id; the id is the only argument. */
const killScript = `
found=
for group in $(grep -l "$1" /proc/[0-9]*/cgroup 2>/dev/null); do
  pid=\${group#/proc/}; pid=\${pid%/cgroup}
  [ "$pid" != $$ ] && kill -9 "$pid" && found=yes
done
[ -n "$found" ]`;

export function isReady(pod: V1Pod): boolean {
  return (
    pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ===
    true
  );
}

export function statusOf(pod: V1Pod, container: string): V1ContainerStatus | undefined {
  return pod.status?.containerStatuses?.find(({ name }) => name === container);
}
