/**
 * A copy of a collection that follows it: an initial list, then watches, each resumed from the last version heard of.
 * Last known items stay there while the API server can't be reached; `silentForMs` says how old they may be.
 *
 * Why not the library's ListWatch (read at 2.0.1): it stops at the first error and leaves starting it again to its user;
 * stop() during a list or a connect is forgotten, and the watch runs on; it tells nobody when it last heard something
 * and asks for no bookmarks, so in a quiet collection its version ages until a 410 makes it list everything anew; an
 * exception in a callback and a line that is no JSON are swallowed; and it keeps whole objects, where we keep what we use.
 */
import { z } from 'zod';
import { systemClock, type Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Collection } from './api-request.ts';
import type { Cluster } from './cluster.ts';
import { abortable } from './connection.ts';
import { isKubernetesError, KubernetesError } from './errors.ts';
import { metadataSchema, readObject, type WatchEvent } from './objects.ts';

export interface WatchTimings {
  /** A watch is renewed after this long, which is cheap: it goes on from where it was. */
  readonly durationMs: number;
  /** A watch that says nothing for this long is dead. Longer than durationMs: an idle one ends in an orderly way first. */
  readonly silenceMs: number;
  /** Everything is listed anew after this long: a cluster restored from a backup sends no events for what it lost. */
  readonly relistMs: number;
  /** After a failure; doubled each time. */
  readonly pauseMs: number;
  readonly pauseMsMax: number;
}

export const defaultWatchTimings: WatchTimings = {
  durationMs: 60_000,
  silenceMs: 75_000,
  relistMs: 600_000,
  pauseMs: 250,
  pauseMsMax: 5000,
};

export interface WatchedListOptions<Item> {
  readonly cluster: Cluster;
  readonly collection: Collection;
  /** What is kept of an object; undefined: nothing. May throw KubernetesError `protocol`: then it is left out, too. */
  readonly read: (object: unknown) => Item | undefined;
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly timings?: Partial<WatchTimings>;
}

const identified = z.object({ metadata: metadataSchema });
const bookmarked = z.object({ metadata: z.object({ resourceVersion: z.string().min(1) }) });

export class WatchedList<Item> {
  readonly #options: WatchedListOptions<Item>;
  readonly #clock: Clock;
  readonly #timings: WatchTimings;
  readonly #stop = new AbortController();
  readonly #synced = Promise.withResolvers<void>();
  readonly #listeners = new Set<() => void>();
  readonly #ended: Promise<void>;
  /** By uid: an object of the same name may be another one. */
  #items = new Map<string, Item>();
  #resourceVersion: string | undefined;
  #heardMs: number | undefined;
  #listedMs = -Infinity;
  #lastError: KubernetesError | undefined;

  /** Starts at once. */
  constructor(options: WatchedListOptions<Item>) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#timings = { ...defaultWatchTimings, ...options.timings };
    this.#synced.promise.catch(() => undefined);
    this.#ended = this.#follow();
  }

  /** Whether the first list has been read. */
  get synced(): boolean {
    return this.#heardMs !== undefined;
  }

  items(): readonly Item[] {
    return [...this.#items.values()];
  }

  /** Milliseconds since the API server was last heard; Infinity before the first list. */
  silentForMs(): number {
    return this.#heardMs === undefined ? Infinity : this.#clock.monotonicMs() - this.#heardMs;
  }

  /** Rejects when there is no list after `timeoutMs`, with the reason. */
  async whenSynced(timeoutMs: number): Promise<void> {
    const limit = AbortSignal.timeout(timeoutMs);
    try {
      await abortable(this.#synced.promise, limit);
    } catch (error) {
      if (!limit.aborted) throw error;
      if (this.#lastError !== undefined) throw this.#lastError;
      const { kind } = this.#options.collection.resource;
      throw new KubernetesError('unavailable', `list ${kind}s: no answer after ${timeoutMs} ms`);
    }
  }

  /** Called after every change, once for a list. Returns how to end that. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    const closed = new KubernetesError('unavailable', 'the watch is closed');
    this.#stop.abort(closed);
    this.#synced.reject(closed);
    await this.#ended;
  }

  /** Never rejects, and ends with close() only. */
  async #follow(): Promise<void> {
    let failures = 0;
    while (!this.#isClosed()) {
      const startMs = this.#clock.monotonicMs();
      const error = await this.#listAndWatch().catch(asError);
      if (this.#isClosed()) return;
      const livedMs = this.#clock.monotonicMs() - startMs;
      // One that ends at once is no better than one that fails: it must not be asked for again and again.
      failures = error === undefined || livedMs > this.#timings.pauseMsMax ? 0 : failures + 1;
      if (error !== undefined) this.#noteFailure(error);
      else if (livedMs >= this.#timings.pauseMs) continue;
      const pauseMs = this.#timings.pauseMs * 2 ** Math.min(20, Math.max(0, failures - 1));
      await this.#clock
        .sleep(Math.min(pauseMs, this.#timings.pauseMsMax), this.#stop.signal)
        .catch(() => undefined);
    }
  }

  #isClosed(): boolean {
    return this.#stop.signal.aborted;
  }

  async #listAndWatch(): Promise<void> {
    const { durationMs, silenceMs, relistMs } = this.#timings;
    const { cluster, collection } = this.#options;
    if (this.#clock.monotonicMs() - this.#listedMs > relistMs) this.#resourceVersion = undefined;
    const resourceVersion = this.#resourceVersion ?? (await this.#list());
    const { signal } = this.#stop;
    const watch = { collection, resourceVersion, durationMs, silenceMs, signal };
    for await (const event of cluster.watch(watch)) {
      this.#apply(event);
      this.#noteHeard();
    }
    this.#noteHeard();
  }

  async #list(): Promise<string> {
    const { cluster, collection } = this.#options;
    const { items, resourceVersion } = await cluster.list(collection, this.#stop.signal);
    const fresh = new Map<string, Item>();
    for (const object of items) this.#keep(fresh, object);
    this.#items = fresh;
    this.#resourceVersion = resourceVersion;
    this.#listedMs = this.#clock.monotonicMs();
    this.#noteHeard();
    this.#synced.resolve();
    this.#notify();
    return resourceVersion;
  }

  #apply({ type, object }: WatchEvent): void {
    const what = `watch ${this.#options.collection.resource.kind}s`;
    this.#resourceVersion = readObject(bookmarked, object, what).metadata.resourceVersion;
    if (type === 'BOOKMARK') return;
    if (type === 'DELETED') this.#items.delete(readObject(identified, object, what).metadata.uid);
    else this.#keep(this.#items, object);
    this.#notify();
  }

  #keep(items: Map<string, Item>, object: unknown): void {
    const { read, logger, collection } = this.#options;
    const { kind } = collection.resource;
    try {
      const { uid } = readObject(identified, object, `watch ${kind}s`).metadata;
      // Also when it can't be read: what it was before is no longer true.
      items.delete(uid);
      const item = read(object);
      if (item !== undefined) items.set(uid, item);
    } catch (error) {
      if (!isKubernetesError(error)) throw error;
      logger.warn('object left out', { kind, error });
    }
  }

  #noteHeard(): void {
    this.#heardMs = this.#clock.monotonicMs();
    if (this.#lastError === undefined) return;
    this.#lastError = undefined;
    const { logger, collection } = this.#options;
    logger.info('api server answers again', { watch: collection.resource.plural });
  }

  #noteFailure(error: KubernetesError): void {
    // A version that is merely lost was probably good: only the doubtful cases begin anew with a list.
    if (error.kind !== 'unavailable') this.#resourceVersion = undefined;
    // A version grows too old in a normal life.
    if (error.kind === 'gone') return;
    const { logger, collection } = this.#options;
    if (this.#lastError?.kind !== error.kind) {
      logger.warn('watch failed, trying again', { watch: collection.resource.plural, error });
    }
    this.#lastError = error;
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }
}

function asError(error: unknown): KubernetesError {
  if (isKubernetesError(error)) return error;
  throw error;
}
