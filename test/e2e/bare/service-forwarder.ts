/**
 * A process of its own in the sandbox's network, instead of kube-proxy: kernels of small machines have neither
 * nftables nor IPVS. Puts the address of each Service on a bridge and forwards TCP connections to its ready endpoints,
 * and forwards connections on a unix socket to the API server, which makes that reachable from outside of the network.
 * Usage: node service-forwarder.ts KUBECONFIG BRIDGE API_SOCKET
 */
import { createServer, connect, type Server, type Socket } from 'node:net';
import {
  CoreV1Api,
  DiscoveryV1Api,
  KubeConfig,
  makeInformer,
  type KubernetesListObject,
  type KubernetesObject,
  type V1EndpointSlice,
  type V1Service,
} from '@kubernetes/client-node';
import { apiServerAddress } from './addresses.ts';
import { run } from './commands.ts';
import { planForwarding, type Forwarding, type Target } from './forwarding-plan.ts';

const connectLimitMs = 5000;
const retryMs = 500;
/** Changes that come together are applied together. */
const settleMs = 50;

interface Listener {
  forwarding: Forwarding;
  readonly server: Server;
  next: number;
}

class ServiceForwarder {
  readonly services = new Map<string, V1Service>();
  readonly slices = new Map<string, V1EndpointSlice>();
  readonly #bridge: string;
  readonly #listeners = new Map<string, Listener>();
  readonly #addresses = new Set<string>([apiServerAddress]);
  #working: Promise<void> = Promise.resolve();
  #planned = false;

  constructor(bridge: string) {
    this.#bridge = bridge;
  }

  changed(): void {
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      this.#working = this.#working
        .then(() => this.#reconcile())
        .catch((error: unknown) => {
          log(`the plan cannot be carried out: ${String(error)}`);
          setTimeout(() => this.changed(), retryMs);
        });
    }, settleMs);
  }

  async #reconcile(): Promise<void> {
    const plan = planForwarding(
      [...this.services.values()],
      [...this.slices.values()],
      new Set([apiServerAddress]),
    );
    for (const [key, { server }] of this.#listeners) {
      if (plan.has(key)) continue;
      server.close();
      this.#listeners.delete(key);
      log(`${key}: no more`);
    }
    await this.#setAddresses(new Set([...plan.values()].map(({ address }) => address)));
    for (const [key, forwarding] of plan) {
      const known = this.#listeners.get(key);
      if (known === undefined) await this.#listen(key, forwarding);
      else known.forwarding = forwarding;
    }
  }

  async #setAddresses(wanted: ReadonlySet<string>): Promise<void> {
    for (const address of wanted) {
      if (this.#addresses.has(address)) continue;
      await run(['ip', 'address', 'replace', `${address}/32`, 'dev', this.#bridge]);
      this.#addresses.add(address);
    }
    for (const address of this.#addresses) {
      if (wanted.has(address) || address === apiServerAddress) continue;
      await run(['ip', 'address', 'del', `${address}/32`, 'dev', this.#bridge]);
      this.#addresses.delete(address);
    }
  }

  async #listen(key: string, forwarding: Forwarding): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (client) => {
      const targets = listener.forwarding.targets;
      const first = listener.next++;
      forward(
        client,
        targets.map((_, i) => targets[(first + i) % targets.length]),
      );
    });
    const listener: Listener = { forwarding, server, next: 0 };
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(forwarding.port, forwarding.address, resolve);
    });
    this.#listeners.set(key, listener);
    log(`${key}: to ${JSON.stringify(forwarding.targets)}`);
  }
}

/** To the first of them that takes it. When none does, the connection is closed. */
function forward(client: Socket, [target, ...others]: readonly (Target | undefined)[]): void {
  client.on('error', () => client.destroy());
  if (target === undefined) {
    client.destroy();
    return;
  }
  const server = connect({ ...target, allowHalfOpen: true });
  server.setTimeout(connectLimitMs, () => server.destroy(new Error('no answer')));
  const failed = (): void => {
    server.destroy();
    forward(client, others);
  };
  server.once('error', failed);
  server.once('connect', () => {
    server.off('error', failed);
    server.setTimeout(0);
    if (client.destroyed) server.destroy();
    else join(client, server);
  });
}

function join(one: Socket, other: Socket): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.on('error', () => to.destroy());
    from.once('close', (failed) => (failed ? to.destroy() : to.end()));
    from.pipe(to);
  }
}

interface Followed<T extends KubernetesObject> {
  readonly path: string;
  readonly list: () => Promise<KubernetesListObject<T>>;
  /** Kept up to date, by namespace and name. */
  readonly known: Map<string, T>;
}

/** Follows all objects of a kind, over losses of the API server. */
function follow<T extends KubernetesObject>(
  config: KubeConfig,
  { path, list, known }: Followed<T>,
  changed: () => void,
): void {
  const informer = makeInformer<T>(config, path, list);
  const start = (): void => {
    informer.start().catch((error: unknown) => {
      log(`${path}: ${String(error)}`);
      setTimeout(start, retryMs);
    });
  };
  const keep = (object: T): void => {
    known.set(keyOf(object), object);
    changed();
  };
  informer.on('add', keep);
  informer.on('update', keep);
  informer.on('delete', (object) => {
    known.delete(keyOf(object));
    changed();
  });
  informer.on('error', () => setTimeout(start, retryMs));
  start();
}

function keyOf({ metadata }: KubernetesObject): string {
  return `${metadata?.namespace ?? ''}/${metadata?.name ?? ''}`;
}

function log(line: string): void {
  process.stderr.write(`${new Date().toISOString()} ${line}\n`);
}

const [kubeconfig = '', bridge = '', apiSocket = ''] = process.argv.slice(2);
createServer({ allowHalfOpen: true }, (client) =>
  forward(client, [{ host: apiServerAddress, port: 443 }]),
).listen(apiSocket);
const config = new KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(CoreV1Api);
const discovery = config.makeApiClient(DiscoveryV1Api);
const forwarder = new ServiceForwarder(bridge);
const changed = (): void => forwarder.changed();
const services: Followed<V1Service> = {
  path: '/api/v1/services',
  list: () => core.listServiceForAllNamespaces(),
  known: forwarder.services,
};
const slices: Followed<V1EndpointSlice> = {
  path: '/apis/discovery.k8s.io/v1/endpointslices',
  list: () => discovery.listEndpointSliceForAllNamespaces(),
  known: forwarder.slices,
};
follow(config, services, changed);
follow(config, slices, changed);
