/**
 * etcd, the API server, the controller manager and the scheduler of the bare cluster, each a process in the sandbox.
 * Admission, authorization and controllers are Kubernetes' defaults (with NodeRestriction, as on any real cluster);
 * only times are shorter, so that tests see a lost node soon.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Daemon } from './commands.ts';
import { apiServer, apiServerAddress, serviceCidr } from './addresses.ts';
import type { Certificates } from './certificates.ts';
import type { Sandbox } from './sandbox.ts';

const etcd = 'http://127.0.0.1:2379';
const startLimitMs = 90_000;
const apiServerGraceMs = 2000;

export interface ControlPlaneOptions {
  readonly sandbox: Sandbox;
  readonly certificates: Certificates;
  readonly toolsDirectory: string;
  readonly logDirectory: string;
  /** Whether the API server says that it is ready. */
  readonly isReady: () => Promise<boolean>;
}

export class ControlPlane {
  readonly #options: ControlPlaneOptions;
  readonly #keptUp: Daemon[] = [];
  #apiServer: Daemon | undefined;

  constructor(options: ControlPlaneOptions) {
    this.#options = options;
  }

  /** Resolves when the API server is ready; the others find their way by themselves. */
  async start(): Promise<void> {
    const { sandbox, isReady } = this.#options;
    await mkdir(join(sandbox.folder, 'etcd'), { mode: 0o700 });
    const store = this.#daemon('etcd', ['etcd', ...etcdFlags(join(sandbox.folder, 'etcd'))]);
    store.start();
    this.#apiServer = this.#daemon('kube-apiserver', await this.#apiServerCommand());
    this.#apiServer.start();
    await this.#apiServer.untilReady(startLimitMs, isReady);
    const commands = await Promise.all([this.#controllerCommand(), this.#schedulerCommand()]);
    for (const command of commands) {
      const daemon = this.#daemon(command[0], command, true);
      this.#keptUp.push(daemon);
      daemon.start();
    }
  }

  /** Ends what would be started again; the rest ends with the sandbox. */
  async stop(): Promise<void> {
    await Promise.all(this.#keptUp.map((daemon) => daemon.stop(0)));
  }

  async restartApiServer(): Promise<void> {
    if (this.#apiServer === undefined) throw new Error('the API server was never started');
    // It would wait for watches to end, which nobody ends.
    await this.#apiServer.stop(apiServerGraceMs);
    this.#apiServer.start();
    await this.#apiServer.untilReady(startLimitMs, this.#options.isReady);
  }

  #daemon(
    name: string,
    [program, ...args]: readonly [string, ...string[]],
    keptUp = false,
  ): Daemon {
    const { sandbox, toolsDirectory, logDirectory } = this.#options;
    const path = program === 'etcd' ? program : join(toolsDirectory, program);
    const command = [...sandbox.enterWithMachineFiles, path, ...args];
    return new Daemon(name, command, logDirectory, keptUp);
  }

  async #apiServerCommand(): Promise<readonly [string, ...string[]]> {
    const { certificates } = this.#options;
    const [serving, toKubelets] = await Promise.all([
      certificates.server('kube-apiserver', [
        apiServerAddress,
        '127.0.0.1',
        'localhost',
        'kubernetes',
        'kubernetes.default',
        'kubernetes.default.svc',
        'kubernetes.default.svc.cluster.local',
      ]),
      certificates.client('kube-apiserver-to-kubelets', {
        user: 'kube-apiserver-to-kubelets',
        groups: ['system:masters'],
      }),
    ]);
    return [
      'kube-apiserver',
      `--etcd-servers=${etcd}`,
      `--bind-address=${apiServerAddress}`,
      '--secure-port=443',
      `--advertise-address=${apiServerAddress}`,
      // Its address is the Service's already.
      '--endpoint-reconciler-type=none',
      `--service-cluster-ip-range=${serviceCidr}`,
      `--tls-cert-file=${serving.certificate}`,
      `--tls-private-key-file=${serving.key}`,
      `--client-ca-file=${certificates.authority}`,
      `--kubelet-certificate-authority=${certificates.authority}`,
      `--kubelet-client-certificate=${toKubelets.certificate}`,
      `--kubelet-client-key=${toKubelets.key}`,
      '--kubelet-preferred-address-types=InternalIP',
      '--authorization-mode=Node,RBAC',
      '--enable-admission-plugins=NodeRestriction',
      '--allow-privileged=true',
      '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
      `--service-account-key-file=${certificates.tokenPublicKey}`,
      `--service-account-signing-key-file=${certificates.tokenKey}`,
      // It asks the watch cache for what etcd 3.4 cannot tell it.
      '--feature-gates=SizeBasedListCostEstimate=false',
      '--default-not-ready-toleration-seconds=15',
      '--default-unreachable-toleration-seconds=15',
    ];
  }

  async #controllerCommand(): Promise<readonly [string, ...string[]]> {
    const { sandbox, certificates } = this.#options;
    return [
      'kube-controller-manager',
      `--kubeconfig=${await this.#kubeconfig('kube-controller-manager')}`,
      '--leader-elect=false',
      '--bind-address=127.0.0.1',
      '--use-service-account-credentials=true',
      `--service-account-private-key-file=${certificates.tokenKey}`,
      `--root-ca-file=${certificates.authority}`,
      `--service-cluster-ip-range=${serviceCidr}`,
      // A folder that it makes.
      `--flex-volume-plugin-dir=${join(sandbox.folder, 'flex')}`,
      '--node-monitor-period=2s',
      '--node-monitor-grace-period=20s',
      '--attach-detach-reconcile-sync-period=5s',
    ];
  }

  async #schedulerCommand(): Promise<readonly [string, ...string[]]> {
    return [
      'kube-scheduler',
      `--kubeconfig=${await this.#kubeconfig('kube-scheduler')}`,
      '--leader-elect=false',
      '--bind-address=127.0.0.1',
    ];
  }

  async #kubeconfig(component: string): Promise<string> {
    const { sandbox, certificates } = this.#options;
    const client = await certificates.client(component, { user: `system:${component}` });
    const path = join(sandbox.folder, `${component}.kubeconfig`);
    return await certificates.kubeconfig(path, apiServer, client);
  }
}

function etcdFlags(folder: string): string[] {
  return [
    `--data-dir=${folder}`,
    `--listen-client-urls=${etcd}`,
    `--advertise-client-urls=${etcd}`,
    '--listen-peer-urls=http://127.0.0.1:2380',
    '--unsafe-no-fsync',
    '--logger=zap',
  ];
}
