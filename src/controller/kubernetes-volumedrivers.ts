/**
 * The volumedrivers of a Kubernetes cluster: their pods say where they run, their registrations which backends there
 * are. A volumedriver is asked for its backend, which is then registered, and only then used. While the API server is
 * away, what was last known of both counts; only a backend that is in neither needs its word.
 */
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Registration } from '../kubernetes/registrations.ts';
import type { VolumedriverPod } from '../kubernetes/volumedriver-pods.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { DriverInfo, VolumeService } from '../volumes/volume-service.ts';
import { fromKubernetes } from './kubernetes-errors.ts';
import type { NodeRegistry } from './node-registry.ts';
import { nodeVolumes } from './node-volumes.ts';
import {
  VolumedriverLink,
  type VolumedriverConnection,
  type VolumedriverPlace,
} from './volumedriver-link.ts';
import {
  inOrder,
  type FoundBackend,
  type Volumedriver,
  type Volumedrivers,
} from './volumedrivers.ts';

/** The pods as they were last seen, at most one a node. */
export interface PodSource {
  /** Whether they were seen at all. */
  readonly synced: boolean;
  list(): readonly VolumedriverPod[];
  ofNode(nodeId: string): VolumedriverPod | undefined;
  onChange(listener: () => void): () => void;
}

/** The registrations as they are now; rejects while the API server cannot be asked. */
export interface RegistrationStore {
  list(): Promise<Registration[]>;
  /**
   * Keeps `forgotten` as it was, and the node, too, unless `mayMove` says that the one which is registered has it no
   * more. Resolves with what is registered now.
   */
  ensure(
    backend: { backendId: string; nodeId: string; shared: boolean },
    mayMove: (from: Registration) => Promise<boolean>,
  ): Promise<Registration>;
}

export interface KubernetesVolumedriversOptions {
  readonly pods: PodSource;
  readonly registrations: RegistrationStore;
  readonly nodes: Pick<NodeRegistry, 'isGone'>;
  readonly connect: (place: VolumedriverPlace) => VolumedriverConnection;
  readonly logger: Logger;
  readonly clock: Clock;
}

/** How long a list of registrations counts. */
const registrationsMs = 5_000;
/** How often it is read when nobody asks. */
const keepMs = 60_000;
/** How often volumedrivers that have not told their backend are asked again. */
const askAgainMs = 3_000;

export class KubernetesVolumedrivers implements Volumedrivers {
  readonly #options: KubernetesVolumedriversOptions;
  readonly #logger: Logger;
  /** By node. */
  readonly #links = new Map<string, VolumedriverLink>();
  readonly #stop = new AbortController();
  readonly #unsubscribe: () => void;
  #registered = new Map<string, Registration>();
  #listedAtMs = -Infinity;
  #listing: Promise<void> | undefined;
  #asking: Promise<void>;

  constructor(options: KubernetesVolumedriversOptions) {
    this.#options = options;
    this.#logger = options.logger.child({ component: 'volumedrivers' });
    this.#unsubscribe = options.pods.onChange(() => {
      this.#followPods();
    });
    this.#followPods();
    this.#asking = this.#askUntilStopped();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#unsubscribe();
    await this.#asking;
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
  }

  /** False before the registrations were read for the first time. */
  get ready(): boolean {
    return this.#listedAtMs !== -Infinity;
  }

  async list(): Promise<Volumedriver[]> {
    await this.#refresh();
    const usable = [...this.#registered.values()].filter(
      (one) => !one.forgotten && !this.#isReplaced(one),
    );
    return inOrder(usable.map((one) => this.#volumedriver(one)));
  }

  async ofBackend(backendId: string): Promise<FoundBackend> {
    await this.#refresh();
    let found = this.#registered.get(backendId);
    if (found === undefined || found.forgotten) {
      // Another controller may have registered it a moment ago, or somebody remembered it: volumes count as deleted by
      // this answer.
      await this.#list();
      found = this.#registered.get(backendId);
    }
    if (found === undefined) return 'unknown';
    return found.forgotten ? 'forgotten' : this.#volumedriver(found);
  }

  async nodesToRegister(): Promise<readonly string[]> {
    const { pods } = this.#options;
    if (!pods.synced) {
      throw new VolumeError('UNAVAILABLE', 'find volumedrivers: their pods are not known yet');
    }
    const nodes = pods.list().map((pod) => pod.nodeId);
    return await Promise.resolve(nodes.filter((nodeId) => !this.#isRegistered(nodeId)));
  }

  /** Backends as they were last known. */
  counts(): { registered: number; forgotten: number; silent: number } {
    const all = [...this.#registered.values()];
    const forgotten = all.filter((one) => one.forgotten).length;
    const silent = all.filter((one) => !one.forgotten && !this.#isAnswered(one)).length;
    return { registered: all.length, forgotten, silent };
  }

  #isAnswered({ backendId, nodeId }: Registration): boolean {
    const link = this.#links.get(nodeId);
    return link?.told?.backendId === backendId && link.failure === undefined;
  }

  /** Whether what the node's volumedriver has is registered; while it says nothing, that is what was there before. */
  #isRegistered(nodeId: string): boolean {
    const told = this.#links.get(nodeId)?.told;
    if (told !== undefined) return this.#registered.has(told.backendId);
    return [...this.#registered.values()].some((one) => one.nodeId === nodeId);
  }

  #isRegisteredAt(nodeId: string, { backendId, shared }: DriverInfo): boolean {
    const registration = this.#registered.get(backendId);
    return registration !== undefined && (shared || registration.nodeId === nodeId);
  }

  #volumedriver({ backendId, nodeId, shared }: Registration): Volumedriver {
    const volumes = nodeVolumes(nodeId, (when) => this.#reach({ backendId, nodeId, when }));
    return { backendId, nodeId, shared, volumes };
  }

  async #reach(wanted: {
    backendId: string;
    nodeId: string;
    when: 'lately' | 'now';
  }): Promise<VolumeService> {
    const { backendId, nodeId, when } = wanted;
    const link = this.#links.get(nodeId);
    if (link === undefined) throw new VolumeError('UNAVAILABLE', 'no volumedriver runs there');
    const info = await link.info(when);
    if (info.backendId === backendId) return link.connection;
    throw new VolumeError(
      'UNAVAILABLE',
      `its volumedriver has the backend ${info.backendId} now, and not ${backendId}`,
    );
  }

  /** Whether the volumedriver of the node has another backend now: nothing new goes to the earlier one. */
  #isReplaced({ backendId, nodeId }: Registration): boolean {
    const told = this.#links.get(nodeId)?.told;
    return told !== undefined && told.backendId !== backendId;
  }

  #followPods(): void {
    const { pods, connect, clock } = this.#options;
    for (const [nodeId, link] of this.#links) {
      const pod = pods.ofNode(nodeId);
      if (pod?.uid === link.place.uid && pod.ip === link.place.ip) continue;
      link.close();
      this.#links.delete(nodeId);
    }
    for (const { uid, nodeId, ip } of pods.list()) {
      if (ip === null || this.#links.has(nodeId)) continue;
      const place = { uid, nodeId, ip };
      const accept = (info: DriverInfo): Promise<void> => this.#accept(place, info);
      const link = new VolumedriverLink({ place, connection: connect(place), clock, accept });
      this.#links.set(nodeId, link);
      void this.#tryAsking(link);
    }
  }

  async #askUntilStopped(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.#refresh(keepMs).catch((error: unknown) => {
        this.#logger.warn('registered backends are not known yet', { error });
      });
      const unknown = [...this.#links.values()].filter(
        ({ told, place }) => told === undefined || !this.#isRegisteredAt(place.nodeId, told),
      );
      await Promise.all(unknown.map((link) => this.#tryAsking(link)));
      await this.#options.clock.sleep(askAgainMs, signal).catch(() => undefined); // stopped: the loop ends
    }
  }

  /** Never rejects. */
  async #tryAsking(link: VolumedriverLink): Promise<void> {
    try {
      await link.info();
    } catch (error) {
      this.#logger.debug('a volumedriver does not tell its backend', {
        nodeId: link.place.nodeId,
        error,
      });
    }
  }

  /** Registers the backend that a volumedriver told. Rejects when nothing may be put there. */
  async #accept({ nodeId }: VolumedriverPlace, info: DriverInfo): Promise<void> {
    const { backendId, shared } = info;
    if (info.nodeId !== nodeId) {
      throw new VolumeError(
        'UNAVAILABLE',
        `its volumedriver calls itself ${info.nodeId}: --node-id must be the node's name`,
      );
    }
    const earlier = this.#registered.get(backendId);
    if (earlier?.nodeId === nodeId && !earlier.forgotten) return;
    const registration = await fromKubernetes('register a backend', () =>
      this.#options.registrations.ensure({ backendId, nodeId, shared }, (from) =>
        this.#hasLost(from),
      ),
    );
    this.#registered.set(backendId, registration);
    if (!shared && registration.nodeId !== nodeId) throw copied(registration);
    if (registration.forgotten) {
      throw new VolumeError(
        'UNAVAILABLE',
        `it was forgotten and is back with its volumes: use it again with: vdctl node remember ${nodeId}`,
      );
    }
    this.#logger.info('backend registered', { backendId, nodeId });
  }

  /**
   * Whether the node certainly has the backend no more. That its volumedriver does not answer is not enough: a copy of
   * its disk, in another node, would take its place.
   */
  async #hasLost({ backendId, nodeId, forgotten }: Registration): Promise<boolean> {
    const link = this.#links.get(nodeId);
    const told = link?.failure === undefined ? link?.told : undefined;
    if (told !== undefined && told.backendId !== backendId) return true;
    return forgotten || (await this.#options.nodes.isGone(nodeId));
  }

  /** Reads the registrations when they are old; what was last known counts when that fails. */
  async #refresh(maxAgeMs = registrationsMs): Promise<void> {
    if (this.#options.clock.monotonicMs() - this.#listedAtMs < maxAgeMs) return;
    try {
      await this.#list();
    } catch (error) {
      if (!this.ready) throw error;
      this.#logger.warn('going on with the backends that were registered before', { error });
    }
  }

  async #list(): Promise<void> {
    this.#listing ??= this.#readRegistrations().finally(() => {
      this.#listing = undefined;
    });
    await this.#listing;
  }

  async #readRegistrations(): Promise<void> {
    const all = await fromKubernetes('list registered backends', () =>
      this.#options.registrations.list(),
    );
    this.#registered = new Map(all.map((one) => [one.backendId, one]));
    this.#listedAtMs = this.#options.clock.monotonicMs();
  }
}

/** A backend that was copied with its id, to another disk, must not be used as if it were the one that is registered. */
function copied({ backendId, nodeId }: Registration): VolumeError {
  return new VolumeError(
    'UNAVAILABLE',
    `its backend ${backendId} is that of node ${nodeId}, too: one of them is a copy; or, if the disk was moved, delete the ` +
      `Node ${nodeId} or give it up with: vdctl node forget ${nodeId}`,
  );
}
