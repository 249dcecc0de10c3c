/**
 * The node on the machine's own kernel: containerd, the kubelet and its pods as processes of the sandbox. It cannot be
 * rebooted, and its kernel's devices are the machine's.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '../support/waiting.ts';
import type { ClusterNode } from '../provider.ts';
import { hostNodeAddress, hostPodCidr, pauseImage } from './addresses.ts';
import type { Certificates } from './certificates.ts';
import { Daemon, run } from './commands.ts';
import { kubeletConfiguration, makeNodeCredentials } from './node-config.ts';
import type { Sandbox } from './sandbox.ts';

const startLimitMs = 60_000;
const importLimitMs = 180_000;
const containerdSocket = '/run/containerd/containerd.sock';

export interface HostNodeOptions {
  readonly name: string;
  readonly sandbox: Sandbox;
  readonly certificates: Certificates;
  readonly toolsDirectory: string;
  readonly logDirectory: string;
}

export class HostNode implements ClusterNode {
  readonly name: string;
  readonly kernelNbd = false;
  readonly ownKernel = false;
  readonly #options: HostNodeOptions;
  readonly #enter: readonly string[];
  #kubelet: Daemon | undefined;

  constructor(options: HostNodeOptions) {
    this.name = options.name;
    this.#options = options;
    const path = `PATH=${options.toolsDirectory}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
    this.#enter = [...options.sandbox.enter, 'env', '-i', path, 'HOME=/root', 'LC_ALL=C'];
  }

  /** Starts containerd. Resolves when it answers. */
  async startContainerd(): Promise<void> {
    const { sandbox, logDirectory } = this.#options;
    const folder = join(sandbox.folder, 'containerd');
    await mkdir(join(folder, 'cni'), { recursive: true });
    await writeFile(
      join(folder, 'cni', '10-bridge.conflist'),
      JSON.stringify(podNetwork(), null, 2),
    );
    await writeFile(join(folder, 'config.toml'), containerdConfig(join(folder, 'cni')));
    const command = ['containerd', '--config', join(folder, 'config.toml'), '--log-level', 'warn'];
    const containerd = new Daemon('containerd', [...this.#enter, ...command], logDirectory);
    containerd.start();
    await containerd.untilReady(startLimitMs, () => this.#answers([...ctr, 'version']));
  }

  async importImages(archives: readonly string[]): Promise<void> {
    for (const archive of archives) {
      await this.run([...ctr, '--namespace', 'k8s.io', 'images', 'import', archive], importLimitMs);
    }
  }

  /** Wants containerd. Resolves when it answers; the Node object comes with time. */
  async startKubelet(): Promise<void> {
    const { sandbox, certificates, logDirectory } = this.#options;
    const node = { name: this.name, address: hostNodeAddress };
    const folder = join(sandbox.folder, 'kubelet');
    const credentials = await makeNodeCredentials(certificates, node, folder);
    const config = {
      ...kubeletConfiguration(credentials.folder),
      address: hostNodeAddress,
      containerRuntimeEndpoint: `unix://${containerdSocket}`,
      cgroupRoot: sandbox.cgroup,
    };
    await writeFile(join(folder, 'config.json'), JSON.stringify(config, null, 2));
    this.#kubelet = new Daemon(
      'kubelet',
      [
        ...[...this.#enter, 'kubelet', `--config=${folder}/config.json`],
        ...[`--kubeconfig=${credentials.kubeconfig}`, '--cert-dir=/var/lib/kubelet/pki'],
        ...[`--hostname-override=${this.name}`, `--node-ip=${hostNodeAddress}`, '--v=2'],
      ],
      logDirectory,
    );
    await this.#startKubelet();
  }

  async run(command: readonly string[], timeoutMs = 60_000): Promise<string> {
    return await run([...this.#enter, ...command], { timeoutMs });
  }

  async restartKubelet(): Promise<void> {
    await this.#kubelet?.stop();
    await this.#startKubelet();
  }

  async reboot(): Promise<never> {
    return await Promise.reject(new Error(`${this.name} has the machine's kernel: no reboot`));
  }

  async kill(): Promise<never> {
    return await this.reboot();
  }

  async start(): Promise<never> {
    return await this.reboot();
  }

  async #startKubelet(): Promise<void> {
    const kubelet = this.#kubelet;
    if (kubelet === undefined) throw new Error(`${this.name} was never started`);
    kubelet.start();
    const healthz = ['curl', '-sf', '-m', '2', '-o', '/dev/null', 'http://127.0.0.1:10248/healthz'];
    await kubelet.untilReady(startLimitMs, () => this.#answers(healthz));
  }

  async #answers(command: readonly string[]): Promise<boolean> {
    return await this.run(command, 5000).then(
      () => true,
      () => false,
    );
  }
}

const ctr = ['ctr', '--address', containerdSocket];

/** Pods get the gateway on the bridge as their default route, by which they reach services and the other node. */
function podNetwork(): unknown {
  return {
    cniVersion: '0.4.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        bridge: 'vdpods0',
        isGateway: true,
        ipMasq: false,
        ipam: {
          type: 'host-local',
          ranges: [[{ subnet: hostPodCidr }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
    ],
  };
}

/** Everything at containerd's own places, which are the sandbox's. */
function containerdConfig(cniFolder: string): string {
  return `version = 3
disabled_plugins = ['io.containerd.nri.v1.nri']
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '${pauseImage}'
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE, nobody may ask for less than he has.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '${cniFolder}'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
`;
}

/** Until the API says that a node is ready. */
export async function untilNodeReady(
  name: string,
  read: (path: string) => Promise<string | undefined>,
): Promise<void> {
  await until(
    `node ${name} is ready`,
    async () => {
      const body = await read(`/api/v1/nodes/${name}`);
      if (body === undefined) return undefined;
      const { status } = JSON.parse(body) as {
        status?: { conditions?: { type: string; status: string }[] };
      };
      const ready = status?.conditions?.find(({ type }) => type === 'Ready');
      return ready?.status === 'True' ? true : undefined;
    },
    { limitMs: startLimitMs },
  );
}
