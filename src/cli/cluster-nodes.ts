/**
 * What `vdctl node` does in a cluster. Apart from the commands themselves, because the Kubernetes library takes a
 * second to load, which no other command should have to wait for.
 */
import { openCluster, type Cluster } from '../kubernetes/cluster.ts';
import { isKubernetesError } from '../kubernetes/errors.ts';
import { Nodes, type NodeState } from '../kubernetes/nodes.ts';
import { driverLabel, Registrations, type Registration } from '../kubernetes/registrations.ts';
import { listVolumedriverPods, type VolumedriverPod } from '../kubernetes/volumedriver-pods.ts';
import { VolumeError } from '../volumes/errors.ts';
import { printable, renderTable } from './output.ts';
import type { Answer, Io } from './session.ts';

export interface ClusterChoice {
  readonly kubeconfig: string | undefined;
  /** Undefined: that of the pod or of the kubeconfig. */
  readonly namespace: string | undefined;
  readonly driverName: string;
  /** Undefined: the labels that the Helm chart gives to the data plane. */
  readonly selector: string | undefined;
}

export class ClusterNodes {
  readonly #cluster: Cluster;
  readonly #choice: ClusterChoice;
  readonly #namespace: string;
  readonly #registrations: Registrations;

  constructor(choice: ClusterChoice, env: Io['env']) {
    const { kubeconfig, driverName } = choice;
    this.#cluster = openCluster({
      env,
      userAgent: 'vdctl',
      ...(kubeconfig === undefined ? {} : { kubeconfig }),
    });
    this.#choice = choice;
    const namespace = choice.namespace ?? this.#cluster.namespace;
    this.#namespace = namespace;
    this.#registrations = new Registrations({ cluster: this.#cluster, namespace, driverName });
  }

  async close(): Promise<void> {
    await this.#cluster.close();
  }

  /** Each backend with its node, and the nodes whose volumedriver has registered none yet. */
  async list(): Promise<Answer> {
    const { driverName } = this.#choice;
    const [registered, pods, nodes] = await Promise.all([
      this.#registrations.list(),
      this.#pods(),
      new Nodes({ cluster: this.#cluster, driverName }).list(),
    ]);
    const rows = rowsOf(registered, pods, nodes);
    const text =
      rows.length === 0
        ? `no node: nothing of driver ${driverName} is in namespace ${this.#namespace}`
        : renderRows(rows);
    return { json: rows, text };
  }

  /** Gives up what only this node has, or one of its backends. Refuses while its volumedriver works with that. */
  async forget(nodeId: string, backendId: string | undefined): Promise<Answer> {
    const pod = (await this.#pods()).find((one) => one.nodeId === nodeId && one.ready);
    if (pod !== undefined) await this.#refuseUsed({ nodeId, backendId, podName: pod.name });
    const forgotten = await this.#registrations.forget(nodeId, backendId);
    if (forgotten.length === 0) await this.#refuseUnknown('forget', nodeId);
    const ids = idsOf(forgotten);
    return {
      json: { nodeId, forgotten: ids },
      text:
        `forgot node ${printable(nodeId)}, with ${ids.length === 1 ? 'backend' : 'backends'} ${ids.join(', ')}\n` +
        'Its volumes are given up: when Kubernetes deletes or detaches one, that counts as done. If the node or its\n' +
        `disk comes back, its data is not used again until 'vdctl node remember ${printable(nodeId)}'.`,
    };
  }

  async remember(nodeId: string, backendId: string | undefined): Promise<Answer> {
    const remembered = await this.#registrations.remember(nodeId, backendId);
    if (remembered.length === 0) await this.#refuseUnknown('remember', nodeId);
    const ids = idsOf(remembered);
    return {
      json: { nodeId, remembered: ids },
      text:
        `node ${printable(nodeId)} is used again, with ${ids.length === 1 ? 'backend' : 'backends'} ${ids.join(', ')}\n` +
        'Volumes that Kubernetes deleted meanwhile are still there, and have to be removed by hand.',
    };
  }

  async #pods(): Promise<readonly VolumedriverPod[]> {
    const { driverName } = this.#choice;
    const selector =
      this.#choice.selector ??
      `${driverLabel}=${driverName},app.kubernetes.io/component=data-plane`;
    try {
      return await listVolumedriverPods(this.#cluster, { namespace: this.#namespace, selector });
    } catch (error) {
      if (!isKubernetesError(error, 'invalid')) throw error;
      throw new VolumeError('INVALID_ARGUMENT', `selector ${selector}: ${error.message}`, {
        cause: error,
      });
    }
  }

  /**
   * A volumedriver that is ready works with one of its node's backends. Which one is not known here: somebody has to
   * name another, such as that of a disk that was replaced.
   */
  async #refuseUsed(wanted: {
    nodeId: string;
    backendId: string | undefined;
    podName: string;
  }): Promise<void> {
    const { nodeId, backendId, podName } = wanted;
    const own = await this.#ownOf(nodeId);
    if (own.length === 0 || (backendId !== undefined && own.length > 1)) return;
    const help =
      own.length > 1
        ? `to give up the backend of a disk that was replaced, name it with --backend (${idsOf(own).join(', ')})`
        : 'to give them up all the same, first take the node out of the cluster or keep the data plane off it';
    throw new VolumeError(
      'NOT_CAPABLE',
      `forget node ${nodeId}: its volumedriver is ready (pod ${podName}), so its volumes are not lost; ${help}`,
    );
  }

  async #ownOf(nodeId: string): Promise<Registration[]> {
    const all = await this.#registrations.list();
    return all.filter((one) => one.nodeId === nodeId && !one.shared);
  }

  async #refuseUnknown(what: string, nodeId: string): Promise<never> {
    const own = idsOf(await this.#ownOf(nodeId));
    if (own.length > 0) {
      const message = `${what} node ${nodeId}: it has no such backend (it has: ${own.join(', ')})`;
      throw new VolumeError('NODE_NOT_FOUND', message);
    }
    const nodes = new Set(
      (await this.#registrations.list())
        .filter(({ shared }) => !shared)
        .map(({ nodeId }) => nodeId),
    );
    const known = nodes.size === 0 ? 'none is registered' : [...nodes].sort().join(', ');
    throw new VolumeError(
      'NODE_NOT_FOUND',
      `${what} node ${nodeId}: no backend of its own is registered for it in namespace ${this.#namespace} ` +
        `(nodes with one: ${known})`,
    );
  }
}

interface Row {
  readonly nodeId: string;
  readonly node: 'ready' | 'not ready' | 'out of service' | 'gone';
  readonly volumedriver: 'ready' | 'not ready' | 'terminating' | 'none';
  /** Null: none is registered. */
  readonly backendId: string | null;
  readonly shared: boolean;
  readonly forgotten: boolean;
}

function rowsOf(
  registered: readonly Registration[],
  pods: readonly VolumedriverPod[],
  nodes: readonly NodeState[],
): Row[] {
  const known = new Set(registered.map(({ nodeId }) => nodeId));
  const without = pods
    .filter(({ nodeId }) => !known.has(nodeId))
    .map(({ nodeId }) => ({ nodeId, backendId: null, shared: false, forgotten: false }));
  return [...registered, ...without]
    .map(({ nodeId, backendId, shared, forgotten }) => ({
      nodeId,
      node: nodeText(nodes.find((node) => node.nodeId === nodeId)),
      volumedriver: podText(pods.find((pod) => pod.nodeId === nodeId)),
      ...{ backendId, shared, forgotten },
    }))
    .sort((a, b) => a.nodeId.localeCompare(b.nodeId, 'en', { numeric: true }));
}

function renderRows(rows: readonly Row[]): string {
  return renderTable(
    ['NODE', 'NODE STATE', 'VOLUMEDRIVER', 'BACKEND', 'FORGOTTEN'],
    rows.map((row) => [
      printable(row.nodeId),
      row.node,
      row.volumedriver,
      row.backendId === null
        ? 'none yet'
        : `${printable(row.backendId)}${row.shared ? ' (any node)' : ''}`,
      row.forgotten ? 'yes' : 'no',
    ]),
  );
}

function nodeText(node: NodeState | undefined): Row['node'] {
  if (node === undefined) return 'gone';
  if (node.outOfService) return 'out of service';
  return node.ready ? 'ready' : 'not ready';
}

function podText(pod: VolumedriverPod | undefined): Row['volumedriver'] {
  if (pod === undefined) return 'none';
  if (pod.terminating) return 'terminating';
  return pod.ready ? 'ready' : 'not ready';
}

function idsOf(registrations: readonly Registration[]): string[] {
  return registrations.map(({ backendId }) => printable(backendId));
}
