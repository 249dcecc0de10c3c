/** What main.ts tells the steps about the running cluster: a JSON file, named by $E2E_STATE. */
import { readFileSync } from 'node:fs';
import type { ProviderFeature } from '../provider.ts';

export interface NodeState {
  readonly name: string;
  readonly kernelNbd: boolean;
  readonly ownKernel: boolean;
}

export interface Release {
  readonly name: string;
  readonly namespace: string;
  readonly driverName: string;
}

/** References of images that every node has. */
export interface TestImages {
  readonly busybox: string;
  readonly postgres: string;
}

export interface ClusterState {
  readonly provider: string;
  readonly kubeconfig: string;
  readonly features: readonly ProviderFeature[];
  readonly nodes: readonly NodeState[];
  /** Where main.ts answers to what only it can do: see control-server.ts. */
  readonly controlSocket: string;
  readonly toolsDirectory: string;
  readonly chart: string;
  /** The values that the chart was installed with, for a second release. */
  readonly values: Readonly<Record<string, unknown>>;
  readonly release: Release;
  readonly images: TestImages;
}

export function readState(): ClusterState {
  const file = process.env['E2E_STATE'];
  if (file === undefined) {
    throw new Error('E2E_STATE names no cluster: steps are run by test/e2e/main.ts');
  }
  return JSON.parse(readFileSync(file, 'utf8')) as ClusterState;
}
