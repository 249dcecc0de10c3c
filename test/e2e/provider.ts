/**
 * The contract between the steps and what runs a Kubernetes for them. A provider brings up a control plane with nodes
 * on which images of the local cache can be run, and takes everything away again. Steps ask for what they need by
 * `features`, and are skipped with a reason where a provider lacks it.
 */

/** What not every provider can do. */
export type ProviderFeature =
  /** A second node with a kernel of its own, which can be rebooted and killed. */
  | 'second-node'
  /** A node whose kernel has an NBD client. */
  | 'kernel-nbd'
  /** The API server can be ended and started again. */
  | 'restart-api-server';

export interface ClusterNode {
  /** The Node object's name. */
  readonly name: string;
  /** Whether this node's kernel has an NBD client (attach strategy kernel). */
  readonly kernelNbd: boolean;
  /** Whether it can be rebooted and killed. */
  readonly ownKernel: boolean;
  /** Runs a command on the node, as root, outside of any container; rejects when it fails or after the limit. */
  run(command: readonly string[], timeoutMs?: number): Promise<string>;
  restartKubelet(): Promise<void>;
  /** An orderly shutdown and a new start. Resolves with how long the shutdown took, once the kubelet is back. */
  reboot(): Promise<{ shutdownMs: number }>;
  /** As if the power went: nothing is told to anyone. */
  kill(): Promise<void>;
  /** Starts it again after kill(). Resolves once the kubelet answers. */
  start(): Promise<void>;
}

export interface Provider {
  readonly name: 'bare' | 'kind';
  /** Path of an administrator's kubeconfig. */
  readonly kubeconfig: string;
  readonly nodes: readonly ClusterNode[];
  readonly features: ReadonlySet<ProviderFeature>;
  /** Values for the chart that this provider needs, such as kubeletPath. */
  readonly chartValues: Readonly<Record<string, unknown>>;
  /** PATH with kubectl-free tools: helm is there. */
  readonly toolsDirectory: string;
  restartApiServer(): Promise<void>;
  /** Where logs are, for a failed run. Gone after down(). */
  readonly logDirectory: string;
  /** Puts what is not there by itself into logDirectory. */
  collectLogs?(): Promise<void>;
  /** Ends and removes everything. Never rejects for what is already gone. */
  down(): Promise<void>;
}

export interface ProviderOptions {
  /** Of Preparations. A provider that was made without them finds its tools by itself. */
  readonly toolsDirectory?: string;
  /** Image archives (OCI layout tarballs) to load on every node. */
  readonly images: readonly string[];
  /** `smoke`: one node. */
  readonly nodes: 'one' | 'all';
  readonly logger: (line: string) => void;
  /** When it fires, up() stops what it does, takes its things away and rejects. */
  readonly signal?: AbortSignal;
}

/** What has to be there before a cluster can be brought up; made from sources where it is not in a cache. */
export interface Preparations {
  /** helm, and whatever the provider itself runs. */
  readonly toolsDirectory: string;
  /** Files with the custom resource definitions of volume snapshots. */
  readonly crds: readonly string[];
  readonly archives: readonly string[];
  readonly references: ImageReferences;
}

/** As in "repository:tag". */
export interface ImageReferences {
  readonly product: string;
  readonly snapshotController: string;
  /** By the chart's keys below `sidecars`; what is not here is the chart's own. */
  readonly sidecars: Readonly<Record<string, string>>;
  readonly busybox: string;
  readonly postgres: string;
}

export interface PrepareOptions {
  readonly which: 'smoke' | 'full';
  readonly logger: (line: string) => void;
  /** Tools are not built: rejects when some are not in the cache. */
  readonly cachedOnly: boolean;
}

/** A way to get a cluster. */
export interface ProviderKind {
  readonly name: Provider['name'];
  /** Why it cannot run on this machine, in a few words; undefined when it can. Quick, and changes nothing. */
  obstacle(): Promise<string | undefined>;
  /** Without it, all tools and images are made from sources: see support/prepare.ts. */
  prepare?(options: PrepareOptions): Promise<Preparations>;
  /** What it has started when it fails it also takes away. */
  up(options: ProviderOptions): Promise<Provider>;
}
