/** What the tests of src/kubernetes start from: an API server double, and a Cluster that talks to it. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCluster, type Cluster, type ClusterOptions } from '../../src/kubernetes/cluster.ts';
import { KubeApiServer } from './kube-api-server.ts';

export interface KubeFixture {
  readonly server: KubeApiServer;
  readonly cluster: Cluster;
  /** Path. */
  readonly kubeconfig: string;
  close(): Promise<void>;
}

export const namespace = 'storage';
export const driverName = 'csi.volumedriver.io';
export const selector = 'app=volumedriver';

/** Short enough for a test, long enough for a busy machine. */
export const watchTimings = {
  durationMs: 60_000,
  silenceMs: 60_000,
  pauseMs: 10,
  pauseMsMax: 100,
};

export async function startKubeFixture(
  options: Partial<ClusterOptions> = {},
): Promise<KubeFixture> {
  const server = await KubeApiServer.start();
  const directory = await mkdtemp(join(tmpdir(), 'kube-'));
  const kubeconfig = join(directory, 'config');
  await writeFile(kubeconfig, server.kubeconfig(namespace));
  const cluster = openCluster({
    env: {},
    kubeconfig,
    userAgent: 'volumedriver-test/1',
    ...options,
  });
  return {
    server,
    cluster,
    kubeconfig,
    async close() {
      await cluster.close();
      await server.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Polls, at most for ten seconds. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`still waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface PodFacts {
  readonly name: string;
  readonly node?: string;
  readonly ip?: string;
  readonly ready?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
  readonly deletionTimestamp?: string;
  readonly creationTimestamp?: string;
  readonly uid?: string;
  readonly serviceAccount?: string;
  readonly phase?: string;
}

export function putPod(server: KubeApiServer, facts: PodFacts): void {
  const { name, uid, deletionTimestamp, creationTimestamp } = facts;
  server.store.put('pods', {
    metadata: {
      name,
      namespace,
      labels: facts.labels ?? { app: 'volumedriver' },
      ...(uid === undefined ? {} : { uid }),
      ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
      ...(creationTimestamp === undefined ? {} : { creationTimestamp }),
    },
    spec: {
      serviceAccountName: facts.serviceAccount ?? 'data-plane',
      ...(facts.node === undefined ? {} : { nodeName: facts.node }),
    },
    status: {
      phase: facts.phase ?? 'Running',
      ...(facts.ip === undefined ? {} : { podIP: facts.ip }),
      conditions: [{ type: 'Ready', status: facts.ready === false ? 'False' : 'True' }],
    },
  });
}

export interface NodeFacts {
  readonly ready?: boolean;
  readonly taints?: readonly string[];
}

export function putNode(server: KubeApiServer, name: string, facts: NodeFacts = {}): void {
  server.store.put('nodes', {
    metadata: { name },
    spec: { taints: (facts.taints ?? []).map((key) => ({ key, effect: 'NoExecute' })) },
    status: { conditions: [{ type: 'Ready', status: facts.ready === false ? 'Unknown' : 'True' }] },
  });
}
