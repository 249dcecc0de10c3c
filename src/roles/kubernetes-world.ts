/**
 * The controller in Kubernetes: volumedrivers found through their pods and reached with mutual TLS, nodes through the
 * API server, certificates for volumedrivers, and events for the users of volumes. It starts whether or not the API
 * server answers.
 */
import { startIssuerServer, type TokenVerdict } from '../api/issuer-server.ts';
import { openControllerTls, type ControllerTls } from '../api/tls/controller-tls.ts';
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import { systemClock } from '../base/clock.ts';
import type { KubernetesCluster } from '../config.ts';
import { HealthWatcher } from '../controller/health-watcher.ts';
import { kubernetesNodes } from '../controller/kubernetes-nodes.ts';
import { KubernetesVolumedrivers } from '../controller/kubernetes-volumedrivers.ts';
import type { NodeRegistry } from '../controller/node-registry.ts';
import type { VolumedriverPlace } from '../controller/volumedriver-link.ts';
import { openCluster, type Cluster } from '../kubernetes/cluster.ts';
import { Nodes } from '../kubernetes/nodes.ts';
import { Registrations } from '../kubernetes/registrations.ts';
import { TokenReviews } from '../kubernetes/token-reviews.ts';
import { VolumeEvents } from '../kubernetes/volume-events.ts';
import { VolumedriverPods } from '../kubernetes/volumedriver-pods.ts';
import type { ControllerMetrics } from '../monitoring/controller-metrics.ts';
import type { ControllerContext, World } from './controller.ts';

/** What is open, in the order in which it was opened. */
type Closers = (() => Promise<unknown>)[];

const issuerCloseMs = 2_000;

export async function openKubernetesWorld(
  config: KubernetesCluster,
  context: ControllerContext & { metrics: ControllerMetrics },
): Promise<World> {
  const { driverName, logger } = context;
  const closers: Closers = [];
  const close = async (): Promise<void> => {
    for (const one of closers.toReversed()) await one();
    closers.length = 0;
  };
  try {
    const cluster = openCluster({
      env: context.env,
      userAgent: `${driverName}/${context.version} controller`,
    });
    closers.push(() => cluster.close());
    const { caDirectory: directory } = config;
    const tls = await openControllerTls({ directory, driverName, clock: systemClock, logger });
    closers.push(() => tls.close());
    if (config.issuer !== null) {
      await openIssuer({ ...config, issuer: config.issuer }, { context, cluster, tls, closers });
    }
    const pods = watchPods(config, { context, cluster, closers });
    const nodes = kubernetesNodes(new Nodes({ cluster, driverName }));
    const volumedrivers = openVolumedrivers(config, {
      context,
      cluster,
      tls,
      closers,
      pods,
      nodes,
    });
    context.metrics.showBackends(() => volumedrivers.counts());
    watchHealth(volumedrivers, { context, cluster, closers });
    return {
      volumedrivers,
      nodes,
      deletesUnpublishedOnly: true,
      // Sidecars end a plugin that is unready for long, and nothing here gets better by a restart.
      ready: () => Promise.resolve(true),
      missing: () => Promise.resolve(missing(pods, volumedrivers)),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

interface Opening {
  readonly context: ControllerContext;
  readonly cluster: Cluster;
  readonly tls: ControllerTls;
  readonly closers: Closers;
}

/** Gives each volumedriver's pod a certificate that names the node which it runs on. */
async function openIssuer(
  config: KubernetesCluster & { issuer: NonNullable<KubernetesCluster['issuer']> },
  { context, cluster, tls, closers }: Opening,
): Promise<void> {
  const { driverName, logger } = context;
  const { address, serviceAccount } = config.issuer;
  const reviews = new TokenReviews({
    ...{ cluster, namespace: config.namespace, serviceAccount },
    audience: driverName,
    selector: config.volumedriverSelector,
  });
  const review = async (token: string, signal: AbortSignal): Promise<TokenVerdict> => {
    const verdict = await reviews.review(token, signal);
    if (verdict.accepted) return { kind: 'accepted', nodeId: verdict.nodeId };
    return { kind: 'refused', reason: verdict.reason };
  };
  const endpoint = { kind: 'tcp', ...address } as const;
  const server = await startIssuerServer({ endpoint, driverName, tls, review, logger });
  closers.push(() => server.close(issuerCloseMs));
}

function watchPods(
  { namespace, volumedriverSelector: selector }: KubernetesCluster,
  { context, cluster, closers }: Omit<Opening, 'tls'>,
): VolumedriverPods {
  const { logger } = context;
  const pods = VolumedriverPods.watch({ cluster, selection: { namespace, selector }, logger });
  closers.push(() => pods.close());
  return pods;
}

function openVolumedrivers(
  { namespace, volumedriverPort: port }: KubernetesCluster,
  {
    context,
    cluster,
    tls,
    closers,
    pods,
    nodes,
  }: Opening & { pods: VolumedriverPods; nodes: NodeRegistry },
): KubernetesVolumedrivers {
  const { driverName, logger } = context;
  const connect = ({ ip, nodeId }: VolumedriverPlace): VolumedriverClient => {
    const expect = { kind: 'volumedriver', driverName, nodeId } as const;
    const endpoint = { kind: 'tcp', host: ip, port } as const;
    return new VolumedriverClient(endpoint, { tls: { source: tls, expect } });
  };
  const registrations = new Registrations({ cluster, namespace, driverName });
  const clock = systemClock;
  const options = { pods, registrations, nodes, connect, logger, clock };
  const volumedrivers = new KubernetesVolumedrivers(options);
  closers.push(() => volumedrivers.close());
  return volumedrivers;
}

/** Volumedrivers that do not answer are not missing: they may need this controller's certificates first. */
function missing(pods: VolumedriverPods, volumedrivers: KubernetesVolumedrivers): string | null {
  if (!pods.synced) return "the volumedrivers' pods are not known yet";
  if (!volumedrivers.ready) return 'the registered backends are not known yet';
  return null;
}

function watchHealth(
  volumedrivers: KubernetesVolumedrivers,
  { context, cluster, closers }: Omit<Opening, 'tls'>,
): void {
  const { driverName, logger } = context;
  const events = VolumeEvents.start({ cluster, driverName, logger });
  closers.push(() => events.close());
  const watcher = new HealthWatcher({ volumedrivers, sink: events, clock: systemClock, logger });
  closers.push(() => watcher.close());
}
