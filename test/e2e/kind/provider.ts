/**
 * Clusters in containers, by kind, where there is a docker: for users' machines and hosted CI. Its nodes share the
 * machine's kernel, so devices are attached by the strategy `fuse`, and no node can be rebooted.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import type {
  ClusterNode,
  Preparations,
  PrepareOptions,
  Provider,
  ProviderKind,
  ProviderOptions,
} from '../provider.ts';
import { mustRun } from '../support/commands.ts';
import { until } from '../support/waiting.ts';
import { buildGroup } from '../tools/build.ts';

const root = resolve(import.meta.dirname, '../../..');
const clusterName = 'volumedriver-e2e';
const productImage = 'volumedriver-csi:e2e';
const testImages = {
  busybox: 'docker.io/library/busybox:1.37',
  postgres: 'docker.io/library/postgres:17',
};
const snapshotControllerImage = 'registry.k8s.io/sig-storage/snapshot-controller:v8.6.0';
const snapshotClient = 'github.com/kubernetes-csi/external-snapshotter/client/v8';

export const kindProvider: ProviderKind = {
  name: 'kind',
  async obstacle() {
    try {
      await promisify(execFile)('docker', ['info'], { timeout: 20_000 });
      return undefined;
    } catch {
      return '`docker info` fails';
    }
  },
  prepare,
  up,
};

/** Images of others are pulled, ours is built; all of them are loaded into the nodes as one archive. */
async function prepare({ logger, cachedOnly, which }: PrepareOptions): Promise<Preparations> {
  const toolsDirectory = await mkdtemp(join(tmpdir(), 'vdcsi-kind-tools-'));
  for (const group of ['helm', 'kind'] as const) {
    const folder = await buildGroup(group, { logger, cachedOnly });
    await symlink(join(folder, group), join(toolsDirectory, group));
  }
  const find = join(root, 'test/support/find-go');
  const [go] = (await mustRun([find])).trim().split('\n');
  const crdFolder = await mustRun([go ?? 'go', 'list', '-m', '-f', '{{.Dir}}', snapshotClient], {
    cwd: join(root, 'test/e2e/tools/sidecars'),
  });
  logger(`docker build ${productImage}`);
  const limitMs = 20 * 60_000;
  await mustRun(['docker', 'build', '--tag', productImage, root], { limitMs });
  const pulled = which === 'smoke' ? [testImages.busybox] : Object.values(testImages);
  for (const image of pulled) {
    logger(`docker pull ${image}`);
    await mustRun(['docker', 'pull', '--quiet', image], { limitMs });
  }
  const archive = join(toolsDirectory, 'images.tar');
  await mustRun(['docker', 'save', '--output', archive, productImage, ...pulled], { limitMs });
  const kinds = ['volumesnapshotclasses', 'volumesnapshotcontents', 'volumesnapshots'];
  return {
    toolsDirectory,
    crds: kinds.map((name) =>
      join(crdFolder.trim(), 'config/crd', `snapshot.storage.k8s.io_${name}.yaml`),
    ),
    archives: [archive],
    references: {
      product: productImage,
      snapshotController: snapshotControllerImage,
      // The chart's own, which the nodes pull.
      sidecars: {},
      ...testImages,
    },
  };
}

async function up(options: ProviderOptions): Promise<Provider> {
  const folder = await mkdtemp(join(tmpdir(), 'vdcsi-kind-'));
  const kubeconfig = join(folder, 'kubeconfig');
  const logDirectory = join(folder, 'logs');
  const { toolsDirectory = '' } = options;
  const kind = async (...args: string[]): Promise<string> =>
    await mustRun([join(toolsDirectory, 'kind'), ...args, '--name', clusterName], {
      limitMs: 10 * 60_000,
    });
  const down = async (): Promise<void> => {
    await kind('delete', 'cluster').catch((error: unknown) => options.logger(String(error)));
    await rm(folder, { recursive: true, force: true });
    await rm(toolsDirectory, { recursive: true, force: true });
  };
  try {
    await kind('delete', 'cluster');
    const config = options.nodes === 'one' ? 'one-node.yaml' : 'cluster.yaml';
    await kind(
      ...['create', 'cluster', '--wait', '3m', '--kubeconfig', kubeconfig],
      ...['--config', join(import.meta.dirname, config)],
    );
    options.signal?.throwIfAborted();
    for (const archive of options.images) await kind('load', 'image-archive', archive);
    await mkdir(logDirectory);
    const names = (await kind('get', 'nodes')).trim().split('\n').sort();
    const controlPlane = names.find((name) => name.endsWith('-control-plane')) ?? '';
    return {
      name: 'kind',
      kubeconfig,
      nodes: names.map((name) => new KindNode(name)),
      features: new Set(['restart-api-server']),
      chartValues: { dataPlane: { strategy: 'fuse' } },
      toolsDirectory,
      logDirectory,
      restartApiServer: () => restartApiServer(new KindNode(controlPlane)),
      collectLogs: async () => {
        await kind('export', 'logs', logDirectory);
      },
      down,
    };
  } catch (error) {
    await down();
    throw error;
  }
}

class KindNode implements ClusterNode {
  readonly name: string;
  readonly kernelNbd = false;
  readonly ownKernel = false;

  constructor(name: string) {
    this.name = name;
  }

  async run(command: readonly string[], timeoutMs = 60_000): Promise<string> {
    return await mustRun(['docker', 'exec', this.name, ...command], { limitMs: timeoutMs });
  }

  async restartKubelet(): Promise<void> {
    await this.run(['systemctl', 'restart', 'kubelet']);
    await until('the kubelet answers', () => this.#answers('http://127.0.0.1:10248/healthz'));
  }

  async reboot(): Promise<{ shutdownMs: number }> {
    throw new Error(`${this.name} has no kernel of its own`);
  }

  async kill(): Promise<void> {
    throw new Error(`${this.name} has no kernel of its own`);
  }

  async start(): Promise<void> {
    throw new Error(`${this.name} has no kernel of its own`);
  }

  async #answers(url: string): Promise<true | undefined> {
    return await this.run(['curl', '--silent', '--fail', '--insecure', url]).then(
      () => true as const,
      () => undefined,
    );
  }

  /** Of the API server that runs on this node. */
  async untilApiServerReady(): Promise<void> {
    await until('the API server answers', () => this.#answers('https://127.0.0.1:6443/readyz'));
  }
}

/** The kubelet starts its pod's container again. */
async function restartApiServer(node: KindNode): Promise<void> {
  await node.run(['pkill', '--signal', 'KILL', '--exact', 'kube-apiserver']);
  await node.untilApiServerReady();
}
