/**
 * A namespace of a step's own, and the verbs with which steps tell what they do in it. What a step leaves in it is
 * removed with it, and that this ends in time is part of what each step proves.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll } from '@jest/globals';
import type { V1PersistentVolume, V1PersistentVolumeClaim, V1Pod } from '@kubernetes/client-node';
import type { Cluster } from './cluster.ts';
import { openCluster } from './cluster.ts';
import { isReady } from './driver.ts';
import type { ExecOptions, Reference } from './kube.ts';
import { until } from './waiting.ts';
import * as workloads from './workloads.ts';
import type { ClaimWish, PodWish, VolumeSnapshot } from './workloads.ts';

const podLimitMs = 120_000;
const removalLimitMs = 150_000;

export type ScratchPod = Omit<PodWish, 'image'> & { readonly image?: string };

/** For all tests of a file. */
export function useScratch(topic: string): Scratch {
  const scratch = new Scratch(topic);
  beforeAll(() => scratch.open(), 60_000);
  afterAll(() => scratch.close(), removalLimitMs + 30_000);
  return scratch;
}

export class Scratch {
  readonly namespace: string;
  readonly #removed: (() => Promise<void>)[] = [];

  constructor(topic: string) {
    this.namespace = `e2e-${topic}-${randomBytes(3).toString('hex')}`;
  }

  get cluster(): Cluster {
    return openCluster();
  }

  async open(): Promise<void> {
    await this.cluster.kube.create({
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: this.namespace },
    });
  }

  /** Undone at the end, last first, before the namespace goes. */
  atEnd(action: () => Promise<void>): void {
    this.#removed.push(action);
  }

  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const action of this.#removed.reverse()) {
      await action().catch((error: unknown) => failures.push(error));
    }
    const reference = { apiVersion: 'v1', kind: 'Namespace', name: this.namespace };
    await this.cluster.kube.removeAndWait(reference, { limitMs: removalLimitMs });
    if (failures.length > 0) throw new AggregateError(failures, 'cleaning up failed');
  }

  reference(kind: 'Pod' | 'PersistentVolumeClaim' | 'VolumeSnapshot', name: string): Reference {
    const apiVersion = kind === 'VolumeSnapshot' ? 'snapshot.storage.k8s.io/v1' : 'v1';
    return { apiVersion, kind, name, namespace: this.namespace };
  }

  async claim(name: string, wish: ClaimWish = {}): Promise<void> {
    await this.cluster.kube.create(workloads.claim(this.namespace, name, wish));
  }

  /** Creates it; see `podReady` for more. */
  async pod(name: string, wish: ScratchPod = {}): Promise<void> {
    const image = this.cluster.state.images.busybox;
    await this.cluster.kube.create(workloads.pod(this.namespace, name, { image, ...wish }));
  }

  async podReady(name: string, wish: ScratchPod = {}, limitMs = podLimitMs): Promise<V1Pod> {
    await this.pod(name, wish);
    return await this.untilPodReady(name, limitMs);
  }

  async untilPodReady(name: string, limitMs = podLimitMs): Promise<V1Pod> {
    return await this.cluster.kube.untilIs<V1Pod>(
      this.reference('Pod', name),
      'is ready',
      (found) => {
        const phase = found.status?.phase;
        if (phase === 'Failed') throw new Error(`pod ${name} failed`);
        return isReady(found);
      },
      { limitMs, everyMs: 200, lastSeen: () => this.#aboutPod(name) },
    );
  }

  /** A pod whose script ends: resolves with what it printed. */
  async podEnds(name: string, wish: ScratchPod, limitMs = podLimitMs): Promise<string> {
    await this.pod(name, wish);
    const ended = await this.cluster.kube.untilIs<V1Pod>(
      this.reference('Pod', name),
      'ends',
      ({ status }) => status?.phase === 'Succeeded' || status?.phase === 'Failed',
      { limitMs, lastSeen: () => this.#aboutPod(name) },
    );
    const printed = await this.cluster.kube.logs({ namespace: this.namespace, name });
    if (ended.status?.phase !== 'Succeeded') throw new Error(`pod ${name} failed: ${printed}`);
    return printed;
  }

  async shell(podName: string, script: string, options: ExecOptions = {}): Promise<string> {
    const target = { namespace: this.namespace, name: podName };
    return (await this.cluster.kube.exec(target, ['/bin/sh', '-c', script], options)).trim();
  }

  async removePod(name: string, limitMs = removalLimitMs): Promise<void> {
    await this.cluster.kube.removeAndWait(this.reference('Pod', name), { limitMs });
  }

  async removeClaim(name: string, limitMs = removalLimitMs): Promise<void> {
    await this.cluster.kube.removeAndWait(this.reference('PersistentVolumeClaim', name), {
      limitMs,
    });
  }

  async untilBound(name: string, limitMs = podLimitMs): Promise<V1PersistentVolumeClaim> {
    return await this.cluster.kube.untilIs<V1PersistentVolumeClaim>(
      this.reference('PersistentVolumeClaim', name),
      'is bound',
      ({ status }) => status?.phase === 'Bound',
      { limitMs },
    );
  }

  /** The PV's name of a bound claim. */
  async volumeOf(claimName: string): Promise<string> {
    const { spec } = await this.untilBound(claimName);
    return spec?.volumeName ?? '';
  }

  async handleOf(claimName: string): Promise<string> {
    const name = await this.volumeOf(claimName);
    const volume = await this.cluster.kube.get<V1PersistentVolume>({
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      name,
    });
    return volume.spec?.csi?.volumeHandle ?? '';
  }

  async snapshot(name: string, claimName: string): Promise<void> {
    await this.cluster.kube.create(workloads.snapshot(this.namespace, name, claimName));
  }

  async snapshotReady(name: string, claimName: string, limitMs = 60_000): Promise<VolumeSnapshot> {
    await this.snapshot(name, claimName);
    return await this.cluster.kube.untilIs<VolumeSnapshot>(
      this.reference('VolumeSnapshot', name),
      'is ready to use',
      ({ status }) => status?.readyToUse === true,
      { limitMs, everyMs: 100 },
    );
  }

  /** Resolves with the message of an event that fits. */
  async untilEvent(reference: Reference, fits: RegExp, limitMs = 90_000): Promise<string> {
    return await until(
      `an event of ${reference.name} says ${String(fits)}`,
      async () => {
        const events = await this.cluster.kube.events(reference);
        return events.find((event) => fits.test(event));
      },
      { limitMs, lastSeen: () => this.cluster.kube.aboutObject(reference) },
    );
  }

  async #aboutPod(name: string): Promise<string> {
    const reference = this.reference('Pod', name);
    const about = await this.cluster.kube.aboutObject(reference);
    const found = await this.cluster.kube.read<V1Pod>(reference);
    const claims = (found?.spec?.volumes ?? []).flatMap(
      ({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName ?? [],
    );
    const aboutClaims = await Promise.all(
      claims.map((each) =>
        this.cluster.kube.aboutObject(this.reference('PersistentVolumeClaim', each)),
      ),
    );
    return [about, ...aboutClaims].join('\n');
  }
}
