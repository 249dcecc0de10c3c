/** Configuration that the nodes of the bare cluster have in common, whatever they run on. */
import { mkdir } from 'node:fs/promises';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { apiServer } from './addresses.ts';
import type { Certificates } from './certificates.ts';

export interface NodeCredentials {
  /** Of the user system:node:NAME. */
  readonly kubeconfig: string;
  /** Files, in one folder of their own. */
  readonly folder: string;
}

/** Makes FOLDER/{kubeconfig,ca.crt,kubelet.crt,kubelet.key}. */
export async function makeNodeCredentials(
  certificates: Certificates,
  node: { readonly name: string; readonly address: string },
  folder: string,
): Promise<NodeCredentials> {
  await mkdir(folder, { recursive: true });
  const [client, serving] = await Promise.all([
    certificates.client(`${node.name}-client`, {
      user: `system:node:${node.name}`,
      groups: ['system:nodes'],
    }),
    certificates.server(`${node.name}-serving`, [node.name, node.address]),
  ]);
  await copyFile(certificates.authority, join(folder, 'ca.crt'));
  await copyFile(serving.certificate, join(folder, 'kubelet.crt'));
  await copyFile(serving.key, join(folder, 'kubelet.key'));
  const kubeconfig = await certificates.kubeconfig(join(folder, 'kubeconfig'), apiServer, client);
  return { kubeconfig, folder };
}

/**
 * The KubeletConfiguration that both nodes share. `credentials`: the folder of makeNodeCredentials as the kubelet sees
 * it.
 */
export function kubeletConfiguration(credentials: string): Record<string, unknown> {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: join(credentials, 'ca.crt') },
    },
    authorization: { mode: 'Webhook' },
    tlsCertFile: join(credentials, 'kubelet.crt'),
    tlsPrivateKeyFile: join(credentials, 'kubelet.key'),
    failCgroupV1: false,
    cgroupDriver: 'cgroupfs',
    cgroupsPerQOS: true,
    enforceNodeAllocatable: [],
    port: 10250,
    readOnlyPort: 0,
    healthzPort: 10248,
    healthzBindAddress: '127.0.0.1',
    failSwapOn: false,
    imageGCHighThresholdPercent: 100,
    evictionHard: {
      'nodefs.available': '1%',
      'imagefs.available': '1%',
      'memory.available': '50Mi',
    },
    nodeStatusUpdateFrequency: '4s',
    nodeLeaseDurationSeconds: 16,
    resolvConf: '',
    volumePluginDir: '/var/lib/kubelet/volume-plugins',
    // A process that lacks CAP_SYS_RESOURCE may not ask for less than it has.
    oomScoreAdj: 0,
  };
}
