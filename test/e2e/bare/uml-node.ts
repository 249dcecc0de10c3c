/**
 * The second node of the bare cluster: a user-mode-linux guest with a kernel, a disk and a network of its own, with
 * version 2 of cgroups only and a real NBD client. Its disk (/var/lib and /var/log) outlives reboots and losses of
 * power, and goes with stop().
 */
import { copyFile, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ClusterNode } from '../provider.ts';
import { containerdConfig, kubeletConfig, podNetworkConfig } from './uml-config.ts';
import { umlDiskImage } from './uml-image.ts';
import { UmlMachine } from './uml-machine.ts';
import { addUmlNetwork, removeUmlNetwork, umlNetwork } from './uml-network.ts';

const guestScript = 'uml-guest.sh';
const programs = ['containerd', 'containerd-shim-runc-v2', 'ctr', 'kubelet', 'runc'];
const cniPlugins = ['host-local', 'ptp'];
const memoryMiB = 2048;
const commandMs = 60_000;
const serviceMs = 150_000;
/** The disk as far as it differs from the one in the cache. */
const changes = 'changes';
const shutDownMs = 180_000;

export interface UmlNodeOptions {
  /** Of the Node object, and of the guest. */
  readonly name: string;
  /** Exists, and is /run/node in the guest. */
  readonly folder: string;
  /** Exists; console.log, containerd.log and kubelet.log are made in it. */
  readonly logDirectory: string;
  /** Folders of the host with containerd, its shim, ctr and the kubelet. runc and the CNI plugins are Debian's. */
  readonly tools: readonly string[];
  /** Archives with the layout of OCI images, the pause image's among them. */
  readonly images: readonly string[];
  readonly pauseImage: string;
  /** Path on the host. Paths in it are the guest's. */
  readonly kubeconfig: string;
  /** Replaces members of the kubelet's configuration. */
  readonly kubeletConfig?: Readonly<Record<string, unknown>>;
  /** A command that replaces itself by the command behind it, in the cluster's network namespace. */
  readonly enterNetwork: readonly string[];
  readonly cacheDirectory?: string;
  readonly logger: (line: string) => void;
}

/** Starts the node. Resolves once its kubelet answers; leaves nothing behind when it rejects. */
export async function startUmlNode(options: UmlNodeOptions): Promise<UmlNode> {
  const disk = await umlDiskImage({
    cacheDirectory: options.cacheDirectory ?? join(homedir(), '.cache/volumedriver-csi/uml'),
    images: options.images,
    programs: await Promise.all(programs.map((name) => findTool(name, options.tools))),
    cniPlugins: cniPlugins.map((name) => join('/usr/lib/cni', name)),
    logger: options.logger,
  });
  const { folder, enterNetwork } = options;
  await writeConfiguration(options);
  const machine = new UmlMachine({
    folder,
    logDirectory: options.logDirectory,
    init: join(folder, guestScript),
    memoryMiB,
    disk: { base: disk, changes: join(folder, changes) },
    tapDevice: umlNetwork.tapDevice,
    enterNetwork,
    environment: {
      NODE_NAME: options.name,
      NODE_FOLDER: folder,
      NODE_ADDRESS: umlNetwork.address,
      NODE_GATEWAY: umlNetwork.gateway,
    },
  });
  await addUmlNetwork(enterNetwork);
  const node = new UmlNode(options, machine);
  try {
    await node.start();
    return node;
  } catch (error) {
    await node.stop();
    throw error;
  }
}

async function writeConfiguration(options: UmlNodeOptions): Promise<void> {
  const { folder } = options;
  await mkdir(join(folder, 'cni'), { recursive: true });
  await writeFile(join(folder, 'cni/10-pods.conflist'), JSON.stringify(podNetworkConfig));
  await writeFile(join(folder, 'containerd.toml'), containerdConfig(options.pauseImage));
  const configuration = { ...kubeletConfig, ...options.kubeletConfig };
  await writeFile(join(folder, 'kubelet.json'), JSON.stringify(configuration));
  await copyFile(join(import.meta.dirname, guestScript), join(folder, guestScript));
  const kubeconfig = join(folder, 'kubeconfig');
  if (options.kubeconfig !== kubeconfig) await copyFile(options.kubeconfig, kubeconfig);
}

export class UmlNode implements ClusterNode {
  readonly name: string;
  readonly kernelNbd = true;
  readonly ownKernel = true;
  readonly address: string = umlNetwork.address;
  readonly podCidr: string = umlNetwork.podCidr;
  readonly #machine: UmlMachine;
  readonly #options: UmlNodeOptions;

  constructor(options: UmlNodeOptions, machine: UmlMachine) {
    this.name = options.name;
    this.#options = options;
    this.#machine = machine;
  }

  async run(command: readonly string[], timeoutMs = commandMs): Promise<string> {
    return await this.#machine.run(command, timeoutMs);
  }

  async start(): Promise<void> {
    const startedMs = performance.now();
    await this.#machine.boot();
    const bootedMs = performance.now();
    await this.#job('start_containerd', serviceMs);
    await this.#job('start_kubelet', serviceMs);
    const seconds = (fromMs: number): string => ((performance.now() - fromMs) / 1000).toFixed(1);
    this.#options.logger(
      `node ${this.name} is up in ${seconds(startedMs)} s, its services in ${seconds(bootedMs)} s`,
    );
  }

  async restartKubelet(): Promise<void> {
    await this.#job('stop_kubelet', serviceMs);
    await this.#job('start_kubelet', serviceMs);
  }

  async reboot(): Promise<{ shutdownMs: number }> {
    const startedMs = performance.now();
    const said = await this.#job('shut_down', shutDownMs);
    await this.#machine.powerOff(jobCommand('power_off'));
    const shutdownMs = performance.now() - startedMs;
    this.#options.logger(
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
    const { folder, enterNetwork } = this.#options;
    await this.#machine.kill();
    await removeUmlNetwork(enterNetwork);
    for (const name of [changes, 'jobs', 'uml']) {
      await rm(join(folder, name), { recursive: true, force: true });
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
  for (const folder of [...folders, '/usr/sbin', '/usr/bin']) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() === true) return path;
  }
  throw new Error(`no ${name} in ${folders.join(', ')}`);
}
