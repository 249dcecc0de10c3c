/** Runs `helm template` on the chart. What is random in its output, the CA that it makes, is masked. */
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { findHelm } from '../support/helm.ts';

export const chart = resolve(import.meta.dirname, '../../deploy/helm/volumedriver-csi');

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly { readonly name: string }[];
  readonly ports?: readonly { readonly name: string; readonly hostPort?: number }[];
  readonly volumeMounts?: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly mountPropagation?: string;
  }[];
}

export interface PodSpec {
  readonly initContainers?: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly { readonly hostPath?: { readonly path: string } }[];
}

export interface Rendering {
  /** Values files. */
  readonly files?: readonly string[];
  /** As for --set. */
  readonly set?: readonly string[];
  readonly release?: string;
  /** Whether the cluster has the VolumeSnapshot API; default: it has. */
  readonly snapshotApi?: boolean;
}

export function valuesFile(name: string): string {
  return join(import.meta.dirname, 'values', `${name}.yaml`);
}

/** The manifests. Throws with what helm said when it refuses. */
export function render(rendering: Rendering = {}): string {
  const { files = [], set = [], release = 'volumedriver-csi', snapshotApi = true } = rendering;
  const args = ['template', release, chart, '--namespace=storage', '--kube-version=1.36.0'];
  if (snapshotApi) args.push('--api-versions=snapshot.storage.k8s.io/v1');
  for (const file of files) args.push(`--values=${file}`);
  for (const value of set) args.push(`--set=${value}`);
  return maskSecrets(helm(args));
}

export function renderObjects(rendering: Rendering = {}): KubernetesObject[] {
  return parseObjects(render(rendering));
}

export function parseObjects(manifests: string): KubernetesObject[] {
  return parseAllDocuments(manifests)
    .map((document) => document.toJS() as KubernetesObject | null)
    .filter((object) => object !== null);
}

/** Of Deployments and DaemonSets. */
export function podSpecs(objects: readonly KubernetesObject[]): PodSpec[] {
  return objects
    .filter(({ kind }) => kind === 'Deployment' || kind === 'DaemonSet')
    .map((object) => (object['spec'] as { template: { spec: PodSpec } }).template.spec);
}

export function containers(objects: readonly KubernetesObject[]): Container[] {
  return podSpecs(objects).flatMap((pod) => pod.containers);
}

/** What helm prints. Throws with what it says when it fails. */
export function helm(args: readonly string[]): string {
  const program = findHelm() ?? 'helm';
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: 'utf8',
    timeout: 60_000,
    // Nothing of the user's: no cluster, no plugins.
    env: {
      PATH: process.env['PATH'],
      HOME: import.meta.dirname,
      KUBECONFIG: join(import.meta.dirname, 'none'),
    },
  });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(stderr);
  return stdout;
}

function maskSecrets(manifests: string): string {
  return manifests
    .replace(/^( *tls\.(?:crt|key): )\S+$/gm, '$1RANDOM')
    .replace(/(-----BEGIN CERTIFICATE-----\n)(?: +MI\S*\n)(?: +\S+\n)*?( +-----END)/g, '$1$2');
}
