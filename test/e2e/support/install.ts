/** Puts the product on a fresh cluster, as a user would: CRDs and snapshot-controller, then the chart with helm. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KubernetesObject, V1CSIStorageCapacity, V1Deployment } from '@kubernetes/client-node';
import { parseAllDocuments } from 'yaml';
import { mustRun } from './commands.ts';
import { components, Driver } from './driver.ts';
import type { Kube } from './kube.ts';
import {
  snapshotController,
  snapshotControllerName,
  snapshotControllerNamespace,
} from './snapshot-controller.ts';
import type { Release } from './state.ts';
import { until } from './waiting.ts';
import { snapshotClass, storageClasses } from './workloads.ts';

export type Values = Readonly<Record<string, unknown>>;

export interface Images {
  readonly product: string;
  readonly snapshotController: string;
  /** By the chart's keys below `sidecars`. */
  readonly sidecars: Readonly<Record<string, string>>;
}

export interface HelmContext {
  readonly kubeconfig: string;
  readonly toolsDirectory: string;
  /** For values and helm's own files. */
  readonly folder: string;
  readonly chart: string;
}

export function findChart(root: string): string {
  const candidates = ['deploy/helm', 'deploy/helm/volumedriver-csi'].map((path) =>
    join(root, path),
  );
  const found = candidates.find((path) => existsSync(join(path, 'Chart.yaml')));
  if (found === undefined) throw new Error(`no chart in ${candidates.join(' or ')}`);
  return found;
}

/** CRDs first, and until the API server serves them. */
export async function installSnapshotApi(
  kube: Kube,
  crdFiles: readonly string[],
  image: string,
): Promise<void> {
  for (const file of crdFiles) {
    for (const document of parseAllDocuments(readFileSync(file, 'utf8'))) {
      const object = document.toJS() as KubernetesObject | null;
      if (object?.kind !== 'CustomResourceDefinition') continue;
      await kube.apply(object);
      await kube.untilIs<KubernetesObject & CrdStatus>(
        {
          apiVersion: 'apiextensions.k8s.io/v1',
          kind: object.kind,
          name: object.metadata?.name ?? '',
        },
        'is established',
        ({ status }) =>
          status?.conditions?.some(
            (each) => each.type === 'Established' && each.status === 'True',
          ) === true,
      );
    }
  }
  for (const object of snapshotController(image)) await kube.apply(object);
}

interface CrdStatus {
  readonly status?: { readonly conditions?: readonly { type: string; status: string }[] };
}

export async function untilSnapshotControllerReady(kube: Kube): Promise<void> {
  await kube.untilIs<V1Deployment>(
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      name: snapshotControllerName,
      namespace: snapshotControllerNamespace,
    },
    'is available',
    ({ status }) => (status?.availableReplicas ?? 0) > 0,
  );
}

/** What the steps need of the chart, on top of its defaults. */
export function chartValues(images: Images, release: Release, nodeCount: number): Values {
  const sidecars = Object.fromEntries(
    Object.entries(images.sidecars).map(([key, reference]) => [
      key,
      { image: imageValue(reference) },
    ]),
  );
  return {
    driverName: release.driverName,
    image: { ...imageValue(images.product), pullPolicy: 'IfNotPresent' },
    controller: { replicas: Math.min(2, nodeCount), logLevel: 'debug' },
    node: { logLevel: 'debug' },
    // How much room there is is asked again every minute otherwise, also after the first answer was missing.
    sidecars: mergeValues(sidecars, {
      provisioner: { extraArgs: ['--capacity-poll-interval=10s'] },
    }),
    storageClasses: [
      { name: storageClasses.ext4 },
      { name: storageClasses.xfs, fsType: 'xfs' },
      { name: storageClasses.immediate, volumeBindingMode: 'Immediate' },
      { name: storageClasses.mountOptions, mountOptions: ['noatime', 'sync'] },
    ],
    volumeSnapshotClasses: [{ name: snapshotClass }],
  };
}

export function imageValue(reference: string): { repository: string; tag: string } {
  const colon = reference.lastIndexOf(':');
  return { repository: reference.slice(0, colon), tag: reference.slice(colon + 1) };
}

/** Objects are merged, anything else is replaced. */
export function mergeValues(base: Values, over: Values): Values {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const before = merged[key];
    merged[key] = isValues(before) && isValues(value) ? mergeValues(before, value) : value;
  }
  return merged;
}

function isValues(value: unknown): value is Values {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export async function helm(context: HelmContext, ...args: string[]): Promise<string> {
  const own = (name: string): string => join(context.folder, 'helm', name);
  const env = {
    ...process.env,
    KUBECONFIG: context.kubeconfig,
    HELM_CACHE_HOME: own('cache'),
    HELM_CONFIG_HOME: own('config'),
    HELM_DATA_HOME: own('data'),
  };
  const program = join(context.toolsDirectory, 'helm');
  return await mustRun([program, ...args], { env, limitMs: 5 * 60_000 });
}

export async function installChart(
  context: HelmContext,
  release: Release,
  values: Values,
): Promise<void> {
  const file = join(context.folder, `values-${release.name}.json`);
  writeFileSync(file, JSON.stringify(values, null, 2));
  const { name, namespace } = release;
  const where = ['--namespace', namespace, '--create-namespace', '--values', file];
  await helm(context, 'install', name, context.chart, ...where);
}

/** A controller at least, and both pods of every node, are ready. */
export async function untilDriverReady(
  kube: Kube,
  release: Release,
  values: Values,
  nodeCount: number,
): Promise<void> {
  const driver = new Driver(kube, release);
  const { replicas } = values['controller'] as { replicas: number };
  await driver.untilReady(components.dataPlane, nodeCount);
  await driver.untilReady(components.node, nodeCount);
  await driver.untilReady(components.controller, replicas);
}

/** The scheduler knows of room on every node: until then it lets no pod wait for a volume there. */
export async function untilRoomIsKnown(
  kube: Kube,
  release: Release,
  nodes: readonly string[],
): Promise<void> {
  const topologyKey = new Driver(kube, release).topologyKey;
  await until(
    'there is a CSIStorageCapacity for each node',
    async () => {
      const all = await kube.list<V1CSIStorageCapacity>('storage.k8s.io/v1', 'CSIStorageCapacity');
      const known = new Set(
        all
          .filter(({ storageClassName }) => storageClassName === storageClasses.ext4)
          .map(({ nodeTopology }) => nodeTopology?.matchLabels?.[topologyKey]),
      );
      return nodes.every((node) => known.has(node)) ? true : undefined;
    },
    { limitMs: 150_000 },
  );
}
