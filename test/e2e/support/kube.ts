/**
 * The Kubernetes API as the steps use it: a request that finds no API server, or a busy one, is repeated for
 * `patienceMs`, since some steps restart it. Everything has a limit.
 */
import { PassThrough, Readable } from 'node:stream';
import {
  ApiException,
  CoreV1Api,
  Exec,
  KubeConfig,
  KubernetesObjectApi,
  PatchStrategy,
  type CoreV1Event,
  type KubernetesObject,
  type V1Pod,
  type V1Status,
} from '@kubernetes/client-node';
import { delay, until, within, type WaitOptions } from './waiting.ts';

const requestLimitMs = 20_000;
const patienceMs = 90_000;

/** Names one object. */
export interface Reference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
}

export interface ExecOptions {
  readonly container?: string;
  readonly stdin?: Buffer | string;
  readonly limitMs?: number;
}

export class ExecFailed extends Error {
  override readonly name = 'ExecFailed';
  readonly output: string;
  constructor(message: string, output: string) {
    super(message);
    this.output = output;
  }
}

export class Kube {
  readonly config = new KubeConfig();
  readonly #objects: KubernetesObjectApi;
  readonly #core: CoreV1Api;

  constructor(kubeconfig: string) {
    this.config.loadFromFile(kubeconfig);
    this.#objects = KubernetesObjectApi.makeApiClient(this.config);
    this.#core = this.config.makeApiClient(CoreV1Api);
  }

  /** An object of that name that is there already is taken for the answer to an earlier try. */
  async create<T extends KubernetesObject>(object: T): Promise<T> {
    return await this.#patiently(`create ${describeObject(object)}`, async (attempt) => {
      try {
        return await this.#objects.create(object);
      } catch (error) {
        if (attempt > 1 && codeOf(error) === 409) return await this.get<T>(referenceTo(object));
        throw error;
      }
    });
  }

  /** Creates it, or makes it so. */
  async apply(object: KubernetesObject): Promise<void> {
    await this.#patiently(`apply ${describeObject(object)}`, () =>
      this.#objects.patch(object, undefined, undefined, 'e2e', true, PatchStrategy.ServerSideApply),
    );
  }

  /** A merge patch. */
  async patch(reference: Reference, change: Readonly<Record<string, unknown>>): Promise<void> {
    const { apiVersion, kind, name, namespace } = reference;
    const named = namespace === undefined ? { name } : { name, namespace };
    const metadata = change['metadata'] as object | undefined;
    await this.#patiently(`patch ${describeReference(reference)}`, () =>
      this.#objects.patch(
        { apiVersion, kind, ...change, metadata: { ...named, ...metadata } },
        undefined,
        undefined,
        undefined,
        undefined,
        PatchStrategy.MergePatch,
      ),
    );
  }

  /** undefined when there is none. */
  async read<T extends KubernetesObject>(reference: Reference): Promise<T | undefined> {
    return await this.#patiently(`read ${describeReference(reference)}`, async () => {
      try {
        return await this.#objects.read<T>(header(reference) as never);
      } catch (error) {
        if (codeOf(error) === 404) return undefined;
        throw error;
      }
    });
  }

  async get<T extends KubernetesObject>(reference: Reference): Promise<T> {
    const found = await this.read<T>(reference);
    if (found === undefined) throw new Error(`there is no ${describeReference(reference)}`);
    return found;
  }

  async list<T extends KubernetesObject>(
    apiVersion: string,
    kind: string,
    where: { namespace?: string; labels?: string } = {},
  ): Promise<T[]> {
    return await this.#patiently(`list ${kind}`, async () => {
      const answer = await this.#objects.list<T>(
        apiVersion,
        kind,
        where.namespace,
        undefined,
        undefined,
        undefined,
        undefined,
        where.labels,
      );
      return answer.items;
    });
  }

  /** Asks for removal, and is content when it is gone already. */
  async remove(reference: Reference, graceSeconds?: number): Promise<void> {
    await this.#patiently(`delete ${describeReference(reference)}`, async () => {
      try {
        await this.#objects.delete(
          header(reference),
          undefined,
          undefined,
          graceSeconds,
          undefined,
          'Background',
        );
      } catch (error) {
        if (codeOf(error) !== 404) throw error;
      }
    });
  }

  async removeAndWait(reference: Reference, options: WaitOptions = {}): Promise<void> {
    await this.remove(reference);
    await this.untilGone(reference, options);
  }

  async untilGone(reference: Reference, options: WaitOptions = {}): Promise<void> {
    await until(
      `${describeReference(reference)} goes away`,
      async () => ((await this.read(reference)) === undefined ? true : undefined),
      { lastSeen: async () => await this.aboutObject(reference), ...options },
    );
  }

  /** Until the object is as wanted. The error tells its events. */
  async untilIs<T extends KubernetesObject>(
    reference: Reference,
    what: string,
    holds: (object: T) => boolean,
    options: WaitOptions = {},
  ): Promise<T> {
    return await until(
      `${describeReference(reference)} ${what}`,
      async () => {
        const object = await this.read<T>(reference);
        return object !== undefined && holds(object) ? object : undefined;
      },
      { lastSeen: async () => await this.aboutObject(reference), ...options },
    );
  }

  /** stdout of the command. Rejects with ExecFailed when it ends with another code than 0. */
  async exec(
    pod: { namespace: string; name: string },
    command: readonly string[],
    options: ExecOptions = {},
  ): Promise<string> {
    const { limitMs = 60_000 } = options;
    const container = options.container ?? (await this.#firstContainer(pod));
    const what = `${command.join(' ').slice(0, 120)} in ${pod.namespace}/${pod.name}/${container}`;
    const stdout = collector();
    const stderr = collector();
    const ended = Promise.withResolvers<V1Status>();
    const socket = await this.#patiently<unknown>(`exec ${what}`, () =>
      new Exec(this.config).exec(
        pod.namespace,
        pod.name,
        container,
        [...command],
        stdout.stream,
        stderr.stream,
        options.stdin === undefined ? null : Readable.from([Buffer.from(options.stdin)]),
        false,
        ended.resolve,
      ),
    );
    if (!isSocket(socket)) throw new Error(`exec ${what}: no connection`);
    socket.onclose = () => {
      ended.reject(new Error(`the connection of ${what} broke`));
    };
    socket.onerror = socket.onclose;
    try {
      const status = await within(what, limitMs, ended.promise);
      const output = stdout.text();
      if (status.status === 'Success') return output;
      const why = `${status.message ?? 'failed'}: ${stderr.text().trim() || output.trim()}`;
      throw new ExecFailed(`${what}: ${why.slice(-2000)}`, output);
    } finally {
      ended.promise.catch(() => undefined);
      socket.close();
    }
  }

  async logs(
    pod: { namespace: string; name: string },
    options: { container?: string; previous?: boolean; tailLines?: number } = {},
  ): Promise<string> {
    const container = options.container ?? (await this.#firstContainer(pod));
    return await this.#patiently(`logs of ${pod.name}`, () =>
      this.#core.readNamespacedPodLog({
        name: pod.name,
        namespace: pod.namespace,
        container,
        ...(options.previous === undefined ? {} : { previous: options.previous }),
        ...(options.tailLines === undefined ? {} : { tailLines: options.tailLines }),
      }),
    );
  }

  /** Events about an object, oldest first, as "REASON: message". */
  async events(reference: Reference): Promise<string[]> {
    const events = await this.list<CoreV1Event>('v1', 'Event', {
      namespace: reference.namespace ?? 'default',
    });
    return events
      .filter(
        ({ involvedObject: { kind, name } }) => kind === reference.kind && name === reference.name,
      )
      .map(({ reason, message, count }) => `${reason ?? '?'}: ${message ?? ''} (${count ?? 1}x)`);
  }

  /** State and events of an object, in a few lines. */
  async aboutObject(reference: Reference): Promise<string> {
    const object = await this.read<KubernetesObject & { status?: object }>(reference);
    const events = await this.events(reference);
    const state =
      object === undefined
        ? 'does not exist'
        : JSON.stringify({
            deleted: object.metadata?.deletionTimestamp,
            finalizers: object.metadata?.finalizers,
            status: object.status,
          });
    return [`${describeReference(reference)}: ${state.slice(0, 1500)}`, ...events.slice(-8)].join(
      '\n  ',
    );
  }

  async #firstContainer(pod: { namespace: string; name: string }): Promise<string> {
    const { spec } = await this.get<V1Pod>(podReference(pod));
    return spec?.containers[0]?.name ?? '';
  }

  /** Every request comes through here. */
  async #patiently<T>(what: string, request: (attempt: number) => Promise<T>): Promise<T> {
    const deadline = performance.now() + patienceMs;
    for (let attempt = 1; ; attempt++) {
      try {
        return await within(what, requestLimitMs, request(attempt));
      } catch (error) {
        if (!mayPass(error) || performance.now() > deadline) {
          throw new Error(`${what}: ${describeFailure(error)}`, { cause: error });
        }
        await delay(500);
      }
    }
  }
}

/** The part of a WebSocket that is used; the client's types know none. */
interface ExecSocket {
  onclose: (() => void) | null;
  onerror: (() => void) | null;
  close(): void;
}

function isSocket(socket: unknown): socket is ExecSocket {
  return typeof socket === 'object' && socket !== null && 'close' in socket && 'onclose' in socket;
}

export function podReference(pod: { namespace: string; name: string }): Reference {
  return { apiVersion: 'v1', kind: 'Pod', name: pod.name, namespace: pod.namespace };
}

export function referenceTo(object: KubernetesObject): Reference {
  const { name, namespace } = object.metadata ?? {};
  return {
    apiVersion: object.apiVersion ?? 'v1',
    kind: object.kind ?? '',
    name: name ?? '',
    ...(namespace === undefined ? {} : { namespace }),
  };
}

/** The HTTP status of an API error; undefined for anything else. */
export function codeOf(error: unknown): number | undefined {
  if (error instanceof ApiException) return error.code;
  return error instanceof Error && error.cause !== undefined ? codeOf(error.cause) : undefined;
}

function mayPass(error: unknown): boolean {
  const code = codeOf(error);
  // Without a code no API server has answered. 403 is what a starting one says before its RBAC is there.
  return code === undefined || code === 429 || code === 403 || code >= 500;
}

function describeFailure(error: unknown): string {
  if (error instanceof ApiException) {
    const body: unknown = error.body;
    return `${error.code}: ${(typeof body === 'string' ? body : JSON.stringify(body)).slice(0, 800)}`;
  }
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}

function header({ apiVersion, kind, name, namespace }: Reference): KubernetesObject {
  return {
    apiVersion,
    kind,
    metadata: { name, ...(namespace === undefined ? {} : { namespace }) },
  };
}

function describeObject(object: KubernetesObject): string {
  return describeReference(referenceTo(object));
}

export function describeReference({ kind, namespace, name }: Reference): string {
  return `${kind} ${namespace === undefined ? '' : `${namespace}/`}${name}`;
}

function collector(): { stream: PassThrough; text: () => string } {
  const stream = new PassThrough();
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return { stream, text: () => Buffer.concat(chunks).toString('utf8') };
}
