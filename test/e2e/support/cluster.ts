/** The running cluster, as a step's process sees it. */
import type { V1Node } from '@kubernetes/client-node';
import { Driver } from './driver.ts';
import { Kube } from './kube.ts';
import { RemoteNode, restartApiServer } from './control-server.ts';
import { readState, type ClusterState } from './state.ts';

export interface Cluster {
  readonly state: ClusterState;
  readonly kube: Kube;
  readonly driver: Driver;
  /** The first is the one that steps use when any does. */
  readonly nodes: readonly RemoteNode[];
  restartApiServer(): Promise<void>;
}

let opened: Cluster | undefined;

export function openCluster(): Cluster {
  if (opened !== undefined) return opened;
  const state = readState();
  const kube = new Kube(state.kubeconfig);
  opened = {
    state,
    kube,
    driver: new Driver(kube, state.release),
    nodes: state.nodes.map((node) => new RemoteNode(node, state.controlSocket)),
    restartApiServer: () => restartApiServer(state.controlSocket),
  };
  return opened;
}

/** A node of the given kind; throws when there is none, so ask for it by `needs` first. */
export function nodeWhich(
  cluster: Cluster,
  what: string,
  fits: (node: RemoteNode) => boolean,
): RemoteNode {
  const node = cluster.nodes.find(fits);
  if (node === undefined) throw new Error(`this cluster has no node ${what}`);
  return node;
}

export async function untilNodeReady(
  cluster: Pick<Cluster, 'kube'>,
  name: string,
  limitMs = 120_000,
): Promise<void> {
  await cluster.kube.untilIs<V1Node>(
    { apiVersion: 'v1', kind: 'Node', name },
    'is ready',
    ({ status }) => status?.conditions?.some(isReady) === true,
    { limitMs },
  );
}

function isReady({ type, status }: { type: string; status: string }): boolean {
  return type === 'Ready' && status === 'True';
}
