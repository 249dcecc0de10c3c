/**
 * Tells the users of volumes what they can do something about, as Events that `kubectl describe pvc` shows. A side
 * job: it never holds up or fails its caller. Bounded: waiting events, repeats, and the rate of writing.
 *
 * core/v1 and not events.k8s.io/v1, which is the same objects under stricter rules: there, an event that exists may be
 * given a count of its repetitions only, never a newer message. kubectl describe shows both alike. An event's name
 * is made of its object and reason, so that the replicas of the controller write one event, not one each.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { systemClock, type Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { resources } from './api-request.ts';
import type { Cluster } from './cluster.ts';
import { isKubernetesError } from './errors.ts';
import { metadataSchema, readObject } from './objects.ts';
import { readKnownVolume, type EventTarget, type KnownVolume } from './known-volumes.ts';
import { WatchedList, type WatchTimings } from './watched-list.ts';

export interface VolumeEvent {
  /** The CSI volume handle. */
  readonly volumeId: string;
  readonly type: 'Normal' | 'Warning';
  /** One word in CamelCase, such as VolumeHalted: an event with the same reason replaces the earlier one. */
  readonly reason: string;
  /** What happened and what to do, in a sentence or two. */
  readonly message: string;
}

export interface VolumeEventsOptions {
  readonly cluster: Cluster;
  readonly driverName: string;
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly limits?: Partial<EventLimits>;
  readonly timings?: Partial<WatchTimings>;
}

export interface EventLimits {
  /** The same event of the same volume is written once in this time, whoever writes it. */
  readonly repeatMs: number;
  /** Between two events, once a burst of `burst` is used up. */
  readonly intervalMs: number;
  readonly burst: number;
  readonly waitingMax: number;
  /** How long an event waits for the first list of PersistentVolumes. */
  readonly syncMs: number;
}

const defaultLimits: EventLimits = {
  repeatMs: 300_000,
  intervalMs: 1000,
  burst: 20,
  waitingMax: 200,
  syncMs: 30_000,
};

/** kubectl shows one paragraph; the API server refuses more than 1 KiB in the newer API. */
const messageLengthMax = 1024;

export class VolumeEvents {
  readonly #options: VolumeEventsOptions;
  readonly #clock: Clock;
  readonly #limits: EventLimits;
  readonly #volumes: WatchedList<KnownVolume>;
  readonly #stop = new AbortController();
  /** The first is being written. */
  readonly #waiting: VolumeEvent[] = [];
  /** When an event was last written or found to be written already, by its key. */
  readonly #writtenMs = new Map<string, number>();
  #worker: Promise<void> | undefined;
  #tokens: number;
  #tokensMs: number;

  private constructor(options: VolumeEventsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#tokens = this.#limits.burst;
    this.#tokensMs = this.#clock.monotonicMs();
    this.#volumes = new WatchedList({
      cluster: options.cluster,
      collection: { resource: resources.persistentVolumes },
      read: (object) => readKnownVolume(object, options.driverName),
      logger: options.logger,
      clock: this.#clock,
      ...(options.timings === undefined ? {} : { timings: options.timings }),
    });
  }

  /** Begins to follow the PersistentVolumes. */
  static start(options: VolumeEventsOptions): VolumeEvents {
    return new VolumeEvents(options);
  }

  /** Returns at once and never throws; an event that can't be written is logged. */
  report(event: VolumeEvent): void {
    if (this.#stop.signal.aborted) return;
    const now = this.#clock.monotonicMs();
    const written = this.#writtenMs.get(keyOf(event));
    if (written !== undefined && now - written < this.#limits.repeatMs) return;
    const waits = this.#waiting.findIndex(
      (other) => other.volumeId === event.volumeId && other.reason === event.reason,
    );
    if (waits > 0) {
      this.#waiting[waits] = event;
      return;
    }
    if (this.#waiting.length >= this.#limits.waitingMax) {
      this.#options.logger.warn('event dropped: too many wait', { ...event });
      return;
    }
    this.#waiting.push(event);
    this.#worker ??= this.#work();
  }

  /** The volume handles of all PersistentVolumes of the driver, as last known. */
  volumeIds(): readonly string[] {
    return this.#volumes.items().map(({ volumeId }) => volumeId);
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    await this.#worker;
  }

  /** What still waits is dropped. */
  async close(): Promise<void> {
    this.#stop.abort(new Error('closed'));
    this.#waiting.length = 0;
    await this.#volumes.close();
    await this.#worker;
  }

  /** Never rejects. */
  async #work(): Promise<void> {
    for (let event = this.#waiting[0]; event !== undefined; event = this.#waiting[0]) {
      try {
        await this.#volumes.whenSynced(this.#limits.syncMs);
        await this.#takeToken();
        await this.#write(event);
        this.#note(event);
      } catch (error) {
        if (!this.#stop.signal.aborted) {
          this.#options.logger.warn('event not written', { ...event, error });
        }
      }
      this.#waiting.shift();
    }
    this.#worker = undefined;
  }

  #note(event: VolumeEvent): void {
    const now = this.#clock.monotonicMs();
    // Insertion order is age, so what has expired is in front.
    for (const [key, writtenMs] of this.#writtenMs) {
      if (now - writtenMs < this.#limits.repeatMs) break;
      this.#writtenMs.delete(key);
    }
    this.#writtenMs.delete(keyOf(event));
    this.#writtenMs.set(keyOf(event), now);
  }

  async #takeToken(): Promise<void> {
    const { burst, intervalMs } = this.#limits;
    const now = this.#clock.monotonicMs();
    this.#tokens = Math.min(burst, this.#tokens + (now - this.#tokensMs) / intervalMs);
    this.#tokensMs = now;
    if (this.#tokens < 1) {
      await this.#clock.sleep(Math.ceil((1 - this.#tokens) * intervalMs), this.#stop.signal);
      await this.#takeToken();
      return;
    }
    this.#tokens -= 1;
  }

  async #write(event: VolumeEvent): Promise<void> {
    const target = this.#volumes
      .items()
      .find((volume) => volume.volumeId === event.volumeId)?.target;
    if (target === undefined) {
      // Not made by Kubernetes, or deleted there: nobody looks at it.
      this.#options.logger.info('event without a PersistentVolume', { ...event });
      return;
    }
    const { cluster } = this.#options;
    const body = this.#eventBody(event, target);
    const { name, namespace } = body.metadata;
    const place = { resource: resources.events, namespace, name };
    try {
      await cluster.request({ verb: 'create', ...place, body });
    } catch (error) {
      if (!isKubernetesError(error, 'alreadyExists')) throw error;
      const stored = await this.#readStored(place);
      if (stored !== undefined) await this.#repeat(place, body, stored);
    }
  }

  /** Undefined when it is gone again: events live for an hour. The next report writes it. */
  async #readStored(place: EventPlace): Promise<StoredEvent | undefined> {
    try {
      const object = await this.#options.cluster.request({ verb: 'get', ...place });
      return readObject(eventSchema, object, `read Event ${place.name}`);
    } catch (error) {
      if (isKubernetesError(error, 'notFound')) return undefined;
      throw error;
    }
  }

  async #repeat(place: EventPlace, body: EventBody, stored: StoredEvent): Promise<void> {
    const ageMs = this.#clock.now() - Date.parse(stored.lastTimestamp ?? '');
    if (ageMs < this.#limits.repeatMs && stored.message === body.message) return;
    const repeated = {
      ...body,
      metadata: { ...body.metadata, resourceVersion: stored.metadata.resourceVersion },
      firstTimestamp: stored.firstTimestamp ?? body.firstTimestamp,
      count: (stored.count ?? 1) + 1,
    };
    try {
      await this.#options.cluster.request({ verb: 'update', ...place, body: repeated });
    } catch (error) {
      // The other replica has just said the same.
      if (!isKubernetesError(error, 'conflict') && !isKubernetesError(error, 'notFound'))
        throw error;
    }
  }

  #eventBody(event: VolumeEvent, target: EventTarget): EventBody {
    const { driverName: component } = this.#options;
    const digest = createHash('sha256').update(`${component}\n${target.uid}\n${event.reason}`);
    const time = new Date(this.#clock.now()).toISOString().replace(/\.\d+Z$/, 'Z');
    return {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: {
        name: `${target.name.slice(0, 200).replace(/[-.]+$/, '')}.${digest.digest('hex').slice(0, 16)}`,
        // Events about what has no namespace are kept in "default", where kubectl describe looks for them.
        namespace: target.namespace ?? 'default',
      },
      involvedObject: target,
      type: event.type,
      reason: event.reason,
      message: event.message.slice(0, messageLengthMax),
      source: { component },
      firstTimestamp: time,
      lastTimestamp: time,
      count: 1,
    };
  }
}

interface EventPlace {
  readonly resource: typeof resources.events;
  readonly namespace: string;
  readonly name: string;
}

interface EventBody {
  readonly apiVersion: 'v1';
  readonly kind: 'Event';
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly involvedObject: EventTarget;
  readonly type: string;
  readonly reason: string;
  readonly message: string;
  readonly source: { readonly component: string };
  readonly firstTimestamp: string;
  readonly lastTimestamp: string;
  readonly count: number;
}

const eventSchema = z.object({
  metadata: metadataSchema,
  message: z.string().nullish(),
  firstTimestamp: z.string().nullish(),
  lastTimestamp: z.string().nullish(),
  count: z.number().int().nullish(),
});

type StoredEvent = z.infer<typeof eventSchema>;

function keyOf({ volumeId, reason, message }: VolumeEvent): string {
  return JSON.stringify([volumeId, reason, message]);
}
