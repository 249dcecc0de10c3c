/**
 * A Kubernetes from binaries, without Docker and systemd: the control plane and one node (n1) as processes in
 * namespaces of their own (sandbox.ts), and a second node (n2) in a user-mode-linux kernel.
 */
import { constants } from 'node:fs';
import { access, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { buildTools } from '../tools/build.ts';
import { until } from '../support/waiting.ts';
import type {
  ClusterNode,
  Provider,
  ProviderFeature,
  ProviderKind,
  ProviderOptions,
} from '../provider.ts';
import { apiServer, nodeBridge, pauseImage } from './addresses.ts';
import { forwardApi, openApiReader, type ApiForward, type ApiReader } from './api-forward.ts';
import { Certificates } from './certificates.ts';
import { Daemon } from './commands.ts';
import { ControlPlane } from './control-plane.ts';
import { HostNode, untilNodeReady } from './host-node.ts';
import { kubeletConfiguration, makeNodeCredentials } from './node-config.ts';
import { makePauseImage } from './pause-image.ts';
import { Sandbox } from './sandbox.ts';
import { umlNetwork } from './uml-network.ts';
import { startUmlNode, type UmlNode } from './uml-node.ts';

/** Programs that come from packages, and the packages (Debian's names). */
const programs = {
  etcd: 'etcd-server',
  runc: 'runc',
  '/usr/lib/cni/bridge': 'containernetworking-plugins',
  ip: 'iproute2',
  openssl: 'openssl',
  curl: 'curl',
  nsenter: 'util-linux',
  losetup: 'mount',
  'linux.uml': 'user-mode-linux',
  busybox: 'busybox-static',
};

export const bareProvider: ProviderKind = {
  name: 'bare',

  async obstacle() {
    if (process.platform !== 'linux') return 'it needs Linux';
    if (process.getuid?.() !== 0) return 'it needs root';
    const missing = [];
    for (const [program, packageName] of Object.entries(programs)) {
      if (!(await isThere(program))) missing.push(packageName);
    }
    return missing.length === 0 ? undefined : `packages are missing: ${missing.join(' ')}`;
  },

  async up(options) {
    const tools = await buildTools({ logger: options.logger });
    const cluster = new BareCluster(await Sandbox.open(), tools.directory, options);
    try {
      await cluster.start();
      return cluster;
    } catch (error) {
      await cluster.down();
      throw error;
    }
  },
};

class BareCluster implements Provider {
  readonly name = 'bare';
  readonly kubeconfig: string;
  readonly nodes: ClusterNode[] = [];
  readonly features = new Set<ProviderFeature>(['restart-api-server']);
  readonly chartValues = {};
  readonly toolsDirectory: string;
  readonly logDirectory: string;
  readonly #sandbox: Sandbox;
  readonly #options: ProviderOptions;
  #controlPlane: ControlPlane | undefined;
  #api: ApiForward | undefined;
  #umlNode: UmlNode | undefined;
  #down: Promise<void> | undefined;
  #images: readonly string[] = [];

  constructor(sandbox: Sandbox, toolsDirectory: string, options: ProviderOptions) {
    this.#sandbox = sandbox;
    this.#options = options;
    this.toolsDirectory = toolsDirectory;
    this.kubeconfig = join(sandbox.folder, 'admin.kubeconfig');
    this.logDirectory = join(sandbox.folder, 'log');
  }

  /** Resolves when all nodes are ready. */
  async start(): Promise<void> {
    await mkdir(this.logDirectory, { recursive: true });
    const { folder } = this.#sandbox;
    const pause = await makePauseImage(join(this.toolsDirectory, 'pause'), folder);
    this.#images = [pause, ...this.#options.images];
    const certificates = await Certificates.create(join(folder, 'pki'));
    const api = await this.#forwardApi(certificates);
    const starting = [
      this.#startControlPlane(certificates, api),
      this.#startHostNode(certificates),
      ...(this.#options.nodes === 'all' ? [this.#startUmlNode(certificates)] : []),
    ];
    // All of them end before anything is taken down.
    const outcomes = await Promise.allSettled(starting);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    for (const { name } of this.nodes) await untilNodeReady(name, (path) => api.get(path));
    const account = '/api/v1/namespaces/default/serviceaccounts/default';
    // Before the controllers have made it, no pod can be.
    await until('there is a service account for pods', () => api.get(account));
  }

  async restartApiServer(): Promise<void> {
    await this.#controlPlane?.restartApiServer();
  }

  async down(): Promise<void> {
    this.#down ??= this.#takeDown();
    await this.#down;
  }

  async #startControlPlane(certificates: Certificates, api: ApiReader): Promise<void> {
    this.#controlPlane = new ControlPlane({
      sandbox: this.#sandbox,
      certificates,
      toolsDirectory: this.toolsDirectory,
      logDirectory: this.logDirectory,
      isReady: async () => (await api.get('/readyz')) === 'ok',
    });
    await this.#controlPlane.start();
  }

  /** Makes the API server reachable from outside of the sandbox, and services within. */
  async #forwardApi(certificates: Certificates): Promise<ApiReader> {
    const { folder, enterWithMachineFiles } = this.#sandbox;
    const admin = await certificates.client('admin', { user: 'admin', groups: ['system:masters'] });
    const inside = join(folder, 'forwarder.kubeconfig');
    await certificates.kubeconfig(inside, apiServer, admin);
    const socket = join(folder, 'api.sock');
    const program = join(import.meta.dirname, 'service-forwarder.ts');
    const command = [process.execPath, program, inside, nodeBridge, socket];
    const name = 'service-forwarder';
    new Daemon(name, [...enterWithMachineFiles, ...command], this.logDirectory).start();
    this.#api = await forwardApi(socket);
    await certificates.kubeconfig(this.kubeconfig, this.#api.url, admin);
    return await openApiReader(this.#api.url, certificates.authority, admin);
  }

  async #startHostNode(certificates: Certificates): Promise<void> {
    const node = new HostNode({
      name: 'n1',
      sandbox: this.#sandbox,
      certificates,
      toolsDirectory: this.toolsDirectory,
      logDirectory: this.logDirectory,
    });
    await node.startContainerd();
    await node.importImages(this.#images);
    await node.startKubelet();
    this.nodes.unshift(node);
  }

  async #startUmlNode(certificates: Certificates): Promise<void> {
    const folder = join(this.#sandbox.folder, 'n2');
    const logDirectory = join(this.logDirectory, 'n2');
    await mkdir(logDirectory, { recursive: true });
    const { kubeconfig } = await makeNodeCredentials(
      certificates,
      { name: 'n2', address: umlNetwork.address },
      join(folder, 'pki'),
    );
    this.#umlNode = await startUmlNode({
      name: 'n2',
      folder,
      logDirectory,
      tools: [this.toolsDirectory],
      images: this.#images,
      pauseImage,
      kubeconfig,
      // The guest sees the folder there.
      kubeletConfig: kubeletConfiguration('/run/node/pki'),
      enterNetwork: this.#sandbox.enterNetwork,
      logger: this.#options.logger,
    });
    this.nodes.push(this.#umlNode);
    this.features.add('second-node').add('kernel-nbd');
  }

  async #takeDown(): Promise<void> {
    const { logger } = this.#options;
    await this.#umlNode?.stop().catch((error: unknown) => logger(`n2: ${String(error)}`));
    await this.#controlPlane?.stop().catch((error: unknown) => logger(String(error)));
    await this.#sandbox.close(logger);
    await this.#api?.close();
  }
}

async function isThere(program: string): Promise<boolean> {
  const folders = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`.split(':');
  const paths = program.startsWith('/')
    ? [program]
    : folders.map((folder) => join(folder, program));
  for (const path of paths) {
    const usable = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (usable) return true;
  }
  return false;
}
