/**
 * A cluster's API server, as whom the configuration says. Every request is bounded in time and repeated while that
 * lasts; every failure is a KubernetesError. `request` and `watch` are for src/kubernetes alone.
 */
import type { KubeConfig } from '@kubernetes/client-node';
import { systemClock, type Clock } from '../base/clock.ts';
import { describeError } from '../base/logger.ts';
import { readAnswer } from './answers.ts';
import {
  describeRequest,
  isObjectName,
  methodOf,
  pathOf,
  type ApiRequest,
  type Collection,
} from './api-request.ts';
import {
  Connection,
  loadConfiguration,
  type Environment,
  type HttpResponse,
} from './connection.ts';
import { isKubernetesError, KubernetesError } from './errors.ts';
import { readLines, SilenceTimer } from './lines.ts';
import { readListPage, readWatchEvent, type WatchEvent } from './objects.ts';

export interface ClusterOptions {
  /** Of the process: KUBECONFIG, HOME, KUBERNETES_SERVICE_HOST. */
  readonly env: Environment;
  /** Path; wins over the environment. */
  readonly kubeconfig?: string;
  /** Such as "volumedriver-csi/0.1.0": by it an administrator tells our requests in the audit log. */
  readonly userAgent: string;
  readonly clock?: Clock;
  /** How long a call may take in all, repetitions included. */
  readonly callTimeoutMs?: number;
}

export interface ObjectList {
  /** As they came. */
  readonly items: readonly unknown[];
  readonly resourceVersion: string;
}

export interface WatchRequest {
  readonly collection: Collection;
  readonly resourceVersion: string;
  /** The API server ends the watch after this; it is then to be resumed. */
  readonly durationMs: number;
  /** When nothing at all arrives for this long, the connection is taken for dead. */
  readonly silenceMs: number;
  readonly signal: AbortSignal;
}

const callTimeoutMs = 10_000;
/** Of the time that is left: one lost answer must leave room for another try. */
const attemptShare = 0.6;
const firstPauseMs = 100;
const pageSize = 500;
/** The API server's own limit of an object is below 4 MiB. */
const watchLineBytesMax = 16 * 2 ** 20;

/** Does not connect yet. Throws KubernetesError `misconfigured`. */
export function openCluster(options: ClusterOptions): Cluster {
  return new Cluster(loadConfiguration(options.env, options.kubeconfig), options);
}

export class Cluster {
  /** The pod's own, or that of the kubeconfig's context. */
  readonly namespace: string;
  readonly #connection: Connection;
  readonly #clock: Clock;
  readonly #callTimeoutMs: number;
  readonly #closed = new AbortController();
  readonly #running = new Set<Promise<unknown>>();

  constructor(config: KubeConfig, options: ClusterOptions) {
    const context = config.getContextObject(config.getCurrentContext());
    this.namespace = context?.namespace ?? 'default';
    this.#connection = new Connection(config, options.userAgent);
    this.#clock = options.clock ?? systemClock;
    this.#callTimeoutMs = options.callTimeoutMs ?? callTimeoutMs;
  }

  get server(): string {
    return this.#connection.server;
  }

  /** Ends everything that is under way with an error. */
  async close(): Promise<void> {
    this.#closed.abort(
      new KubernetesError('unavailable', 'the connection to the cluster is closed'),
    );
    await Promise.allSettled(this.#running);
    await this.#connection.close();
  }

  /** The answer's JSON. `signal` ends it early, with an error. */
  async request(request: ApiRequest, signal?: AbortSignal): Promise<unknown> {
    refuseBadName(request);
    return await this.#track(this.#repeat(request, signal));
  }

  /** All objects of the collection, page by page, and the version to watch from. */
  async list(collection: Collection, signal?: AbortSignal): Promise<ObjectList> {
    try {
      return await this.#listOnce(collection, signal);
    } catch (error) {
      // Its first pages were too old for the next ones.
      if (!isKubernetesError(error, 'gone')) throw error;
      return await this.#listOnce(collection, signal);
    }
  }

  async #listOnce(collection: Collection, signal: AbortSignal | undefined): Promise<ObjectList> {
    const items: unknown[] = [];
    let continueFrom = '';
    for (;;) {
      const query = {
        limit: `${pageSize}`,
        ...(continueFrom === '' ? {} : { continue: continueFrom }),
      };
      const request = { verb: 'list', collection, query } as const;
      const page = readListPage(request, await this.request(request, signal));
      items.push(...page.items);
      if (page.continueFrom === '') return { items, resourceVersion: page.resourceVersion };
      if (page.continueFrom === continueFrom) {
        throw new KubernetesError('protocol', `${describeRequest(request)}: a page is repeated`);
      }
      continueFrom = page.continueFrom;
    }
  }

  /**
   * Events from a version on. Returns when the API server ends the watch; throws KubernetesError `gone` when it must
   * be begun anew with a list. The caller takes the events one by one: a slow caller slows the stream.
   */
  async *watch(watch: WatchRequest): AsyncGenerator<WatchEvent> {
    const request: ApiRequest = {
      verb: 'watch',
      collection: watch.collection,
      query: {
        watch: 'true',
        allowWatchBookmarks: 'true',
        resourceVersion: watch.resourceVersion,
        timeoutSeconds: `${Math.max(1, Math.ceil(watch.durationMs / 1000))}`,
      },
    };
    const silence = new SilenceTimer(watch.silenceMs);
    const left = new AbortController();
    const signal = AbortSignal.any([
      watch.signal,
      silence.signal,
      left.signal,
      this.#closed.signal,
    ]);
    const running = Promise.withResolvers<void>();
    void this.#track(running.promise);
    try {
      const response = await this.#open(request, signal);
      for await (const line of readLines(response.pieces(), watchLineBytesMax, silence.reset)) {
        yield readWatchEvent(request, line);
      }
    } catch (error) {
      // The silent connection may be one that other requests would share.
      if (silence.signal.aborted) this.#connection.renewPool();
      throw this.#failure(request, error);
    } finally {
      silence.stop();
      // For a caller who left before the end.
      left.abort();
      running.resolve();
    }
  }

  async #open(request: ApiRequest, signal: AbortSignal): Promise<HttpResponse> {
    const { httpStatus, retryAfter, ...response } = await this.#connection.send({
      method: methodOf(request),
      path: pathOf(request),
      signal,
    });
    if (httpStatus === 200) return { httpStatus, retryAfter, ...response };
    readAnswer(request, { httpStatus, retryAfter, body: await response.text() });
    throw new KubernetesError('protocol', `${describeRequest(request)}: HTTP status ${httpStatus}`);
  }

  async #repeat(request: ApiRequest, signal: AbortSignal | undefined): Promise<unknown> {
    const deadlineMs = this.#clock.monotonicMs() + this.#callTimeoutMs;
    const ended = [this.#closed.signal, ...(signal === undefined ? [] : [signal])];
    for (let pauseMs = firstPauseMs; ; pauseMs *= 2) {
      const leftMs = deadlineMs - this.#clock.monotonicMs();
      const limitMs = Math.max(1, Math.ceil(leftMs * attemptShare));
      try {
        return await this.#attempt(
          request,
          AbortSignal.any([AbortSignal.timeout(limitMs), ...ended]),
        );
      } catch (error) {
        const waitMs = Math.max(pauseMs, retryAfterMsOf(error));
        const lateMs = this.#clock.monotonicMs() + waitMs - deadlineMs;
        if (!isKubernetesError(error, 'unavailable') || lateMs >= 0) throw error;
        if (ended.some(({ aborted }) => aborted)) throw error;
        await this.#clock.sleep(waitMs, AbortSignal.any(ended)).catch(() => {
          throw error;
        });
      }
    }
  }

  async #attempt(request: ApiRequest, signal: AbortSignal): Promise<unknown> {
    try {
      const response = await this.#connection.send({
        method: methodOf(request),
        path: pathOf(request),
        signal,
        ...('body' in request ? { body: JSON.stringify(request.body) } : {}),
      });
      const { httpStatus, retryAfter } = response;
      return readAnswer(request, { httpStatus, retryAfter, body: await response.text() });
    } catch (error) {
      throw this.#failure(request, error);
    }
  }

  /** What is not yet an error of ours comes from the transport. */
  #failure(request: ApiRequest, error: unknown): KubernetesError {
    if (isKubernetesError(error)) return error;
    this.#connection.renewPool();
    const what = `${describeRequest(request)} from ${this.server}`;
    if (error instanceof Error && error.name === 'TimeoutError') {
      return new KubernetesError('unavailable', `${what}: no answer in time`);
    }
    // With all its causes: "fetch failed" alone tells nothing.
    return new KubernetesError('unavailable', `${what}: ${describeError(error)}`);
  }

  async #track<Value>(work: Promise<Value>): Promise<Value> {
    this.#running.add(work);
    try {
      return await work;
    } finally {
      this.#running.delete(work);
    }
  }
}

/** What can be no object's name names no object; a path made of it could be that of something else. */
function refuseBadName(request: ApiRequest): void {
  if (!('name' in request) || isObjectName(request.name)) return;
  if (request.verb === 'create' && request.name === '') return;
  const kind = request.verb === 'get' ? 'notFound' : 'invalid';
  throw new KubernetesError(kind, `${describeRequest(request)}: this can't be an object's name`);
}

function retryAfterMsOf(error: unknown): number {
  return error instanceof KubernetesError ? (error.retryAfterMs ?? 0) : 0;
}
