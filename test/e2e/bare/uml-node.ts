/**
 * The second node of the bare cluster: a user-mode-linux guest with a kernel, a disk and a network of its own, with
 * version 2 of cgroups only and a real NBD client. Its disk (/var/lib and /var/log) outlives reboots and losses of
 * power, and goes with stop().
 */
import { copyFile, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ClusterNode } from '../provider.ts';
import {
  containerdConfig,
  kubeletConfig,
  kubeletHealthPort,
  podNetworkConfig,
} from './uml-config.ts';
import { umlDiskImage } from './uml-image.ts';
import { UmlMachine } from './uml-machine.ts';
import { addUmlNetwork, umlNetwork, type RemoveNetwork } from './uml-network.ts';

const guestScript = 'uml-guest.sh';
const memoryMiB = 2048;
const commandMs = 60_000;
const serviceMs = 90_000;
const shutDownMs = 180_000;
const healthMs = 120_000;

export interface UmlNodeOptions {
  /** Of the Node object, and of the guest. */
  readonly name: string;
  /** Exists; everything of the node is made below it. */
  readonly folder: string;
  /** Exists; console.log, containerd.log and kubelet.log are made in it. */
  readonly logDirectory: string;
  /** Folders of the host with containerd, its shim, ctr and the kubelet. runc and the CNI plugins are Debian's. */
  readonly tools: readonly string[];
  /** Archives with the layout of OCI images, the pause image's among them. */
  readonly images: readonly string[];
  readonly pauseImage: string;
  /** Path on the host; names the API server by an address that the host routes to. */
  readonly kubeconfig: string;
  /** Replaces members of the kubelet's configuration. */
  readonly kubeletConfig?: Readonly<Record<string, unknown>>;
  readonly cacheDirectory?: string;
  readonly logger: (line: string) => void;
}

/** What the host needs besides the binaries of the cluster, as Debian packages. */
export const umlPackages = [
  'user-mode-linux',
  'runc',
  'containernetworking-plugins',
  'busybox-static',
] as const;

/** Starts the node. Resolves once its kubelet answers; leaves nothing behind when it rejects. */
export async function startUmlNode(options: UmlNodeOptions): Promise<UmlNode> {
  const disk = await umlDiskImage({
    cacheDirectory: options.cacheDirectory ?? join(homedir(), '.cache/volumedriver-csi/uml'),
    images: options.images,
    containerd: await findTool('containerd', options.tools),
    ctr: await findTool('ctr', options.tools),
    logger: options.logger,
  });
  const shared = join(options.folder, 'shared');
  await mkdir(join(shared, 'cni'), { recursive: true });
  await writeFile(join(shared, 'containerd.toml'), containerdConfig(options.pauseImage));
  await writeFile(join(shared, 'cni/10-pods.conflist'), JSON.stringify(podNetworkConfig));
  const configuration = { ...kubeletConfig, ...options.kubeletConfig };
  await writeFile(join(shared, 'kubelet.json'), JSON.stringify(configuration));
  await copyFile(join(import.meta.dirname, guestScript), join(shared, guestScript));
  await copyFile(options.kubeconfig, join(shared, 'kubeconfig'));
  const changes = join(options.folder, 'changes');
  const machine = new UmlMachine({
    folder: shared,
    logDirectory: options.logDirectory,
    init: join(shared, guestScript),
    memoryMiB,
    disk: { base: disk, changes },
    tapDevice: umlNetwork.tapDevice,
    environment: {
      NODE_NAME: options.name,
      NODE_FOLDER: shared,
      NODE_ADDRESS: umlNetwork.address,
      NODE_GATEWAY: umlNetwork.gateway,
      NODE_TOOLS: options.tools.join(':'),
    },
  });
  const removeNetwork = await addUmlNetwork();
  const node = new UmlNode(options, machine, async () => {
    await removeNetwork();
    await rm(changes, { force: true });
    await rm(shared, { recursive: true, force: true });
  });
  try {
    await node.start();
    return node;
  } catch (error) {
    await node.stop();
    throw error;
  }
}

export class UmlNode implements ClusterNode {
  readonly name: string;
  readonly kernelNbd = true;
  readonly ownKernel = true;
  readonly address: string = umlNetwork.address;
  readonly podCidr: string = umlNetwork.podCidr;
  readonly #machine: UmlMachine;
  readonly #logger: (line: string) => void;
  readonly #remove: RemoveNetwork;

  constructor(options: UmlNodeOptions, machine: UmlMachine, remove: RemoveNetwork) {
    this.name = options.name;
    this.#logger = options.logger;
    this.#machine = machine;
    this.#remove = remove;
  }

  async run(command: readonly string[], timeoutMs = commandMs): Promise<string> {
    return await this.#machine.run(command, timeoutMs);
  }

  async start(): Promise<void> {
    const startedMs = performance.now();
    await this.#machine.boot();
    const bootedMs = performance.now();
    await this.#job('start_containerd', serviceMs);
    await this.#startKubelet();
    const seconds = (fromMs: number): string => ((performance.now() - fromMs) / 1000).toFixed(1);
    this.#logger(
      `node ${this.name} is up in ${seconds(startedMs)} s, its services in ${seconds(bootedMs)} s`,
    );
  }

  async restartKubelet(): Promise<void> {
    await this.#job('stop_kubelet', serviceMs);
    await this.#startKubelet();
  }

  async reboot(): Promise<{ shutdownMs: number }> {
    const startedMs = performance.now();
    const said = await this.#job('shut_down', shutDownMs);
    await this.#machine.powerOff(jobCommand('power_off'));
    const shutdownMs = performance.now() - startedMs;
    this.#logger(
      `node ${this.name} went down in ${Math.round(shutdownMs)} ms: ${said.trim().replaceAll('\n', '; ')}`,
    );
    await this.start();
    return { shutdownMs };
  }

  async kill(): Promise<void> {
    await this.#machine.kill();
  }

  /** Takes everything away, whatever state it is in. The logs stay. Can be repeated. */
  async stop(): Promise<void> {
    await this.#machine.kill();
    await this.#remove();
  }

  async #startKubelet(): Promise<void> {
    await this.#job('start_kubelet', serviceMs);
    const url = `http://${umlNetwork.address}:${kubeletHealthPort}/healthz`;
    const endMs = performance.now() + healthMs;
    for (;;) {
      const answer = await fetch(url, { signal: AbortSignal.timeout(5000) }).catch(() => undefined);
      if (answer?.ok === true) return;
      if (!this.#machine.running) throw new Error('the guest ended while its kubelet started');
      if (performance.now() > endMs)
        throw new Error(`the guest's kubelet does not answer at ${url}`);
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }

  async #job(name: string, timeoutMs: number): Promise<string> {
    return await this.#machine.run(jobCommand(name), timeoutMs);
  }
}

function jobCommand(name: string): string[] {
  return ['bash', `/run/node/${guestScript}`, name];
}

async function findTool(name: string, folders: readonly string[]): Promise<string> {
  for (const folder of folders) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() === true) return path;
  }
  throw new Error(`no ${name} in ${folders.join(', ')}`);
}
