/**
 * The way to the API server: the library's configuration (in-cluster or kubeconfig), its authentication and its HTTP
 * transport. Two of the library's habits are replaced:
 * - It makes a new connection pool, so a new TLS connection, for each request. Here one is shared, and given up after
 *   any failure and after some minutes: it may hold a half-open HTTP/2 connection, or an outdated CA.
 * - Its generated clients and its Watch have no time-outs that a caller could set, and do not check what they receive.
 */
import { accessSync } from 'node:fs';
import { join } from 'node:path';
import {
  IsomorphicFetchHttpLibrary,
  KubeConfig,
  RequestContext,
  type HttpMethod,
} from '@kubernetes/client-node';
import { describeError } from '../base/logger.ts';
import { KubernetesError } from './errors.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface HttpRequest {
  readonly method: HttpMethod;
  /** With the query. */
  readonly path: string;
  readonly body?: string;
  readonly signal: AbortSignal;
}

export interface HttpResponse {
  readonly httpStatus: number;
  readonly retryAfter: string | undefined;
  text(): Promise<string>;
  /** The body in pieces as they arrive; ends with an error when the request's signal is aborted. */
  pieces(): AsyncIterable<Uint8Array>;
}

type Pool = NonNullable<ReturnType<RequestContext['getDispatcher']>>;

const poolAgeMsMax = 300_000;

/**
 * In a pod: its service account. Elsewhere: the kubeconfig given, that of KUBECONFIG, or ~/.kube/config. Throws
 * KubernetesError `misconfigured`.
 */
export function loadConfiguration(env: Environment, kubeconfig: string | undefined): KubeConfig {
  const config = new KubeConfig();
  const source = sourceOf(env, kubeconfig);
  try {
    if (source === 'in-cluster') config.loadFromCluster();
    else if (source === 'default') config.loadFromDefault();
    else config.loadFromFile(source);
  } catch (error) {
    throw new KubernetesError(
      'misconfigured',
      `load the cluster configuration from ${source}: ${describeError(error)}`,
    );
  }
  if (config.getCurrentCluster() === null) {
    throw new KubernetesError(
      'misconfigured',
      `load the cluster configuration from ${source}: its current context names no cluster`,
    );
  }
  return config;
}

/** The library falls back to http://localhost:8080, which nobody wants: refuse instead. */
function sourceOf(env: Environment, kubeconfig: string | undefined): string {
  if (kubeconfig !== undefined) return kubeconfig;
  const given = env['KUBECONFIG'];
  if (given !== undefined && given !== '') return given.includes(':') ? 'default' : given;
  const home = env['HOME'];
  const inHome = home === undefined ? undefined : join(home, '.kube', 'config');
  if (inHome !== undefined && isReadable(inHome)) return inHome;
  if ((env['KUBERNETES_SERVICE_HOST'] ?? '') !== '') return 'in-cluster';
  throw new KubernetesError(
    'misconfigured',
    'find a cluster: not in a pod (KUBERNETES_SERVICE_HOST is not set), and there is no kubeconfig ' +
      '(KUBECONFIG, ~/.kube/config)',
  );
}

function isReadable(path: string): boolean {
  try {
    accessSync(path);
    return true;
  } catch {
    // Absent or not ours: then it is not the configuration.
    return false;
  }
}

export class Connection {
  readonly #config: KubeConfig;
  readonly #userAgent: string;
  readonly #http = new IsomorphicFetchHttpLibrary();
  #pool: { readonly pool: Pool; readonly sinceMs: number } | undefined;
  /** Given up, but still carrying requests. */
  readonly #givenUp = new Set<Pool>();

  constructor(config: KubeConfig, userAgent: string) {
    this.#config = config;
    this.#userAgent = userAgent;
  }

  get server(): string {
    return this.#config.getCurrentCluster()?.server ?? '';
  }

  /** Resolves once the head of the answer is there. Rejects with whatever the transport throws. */
  async send(request: HttpRequest): Promise<HttpResponse> {
    const url = `${this.server.replace(/\/+$/, '')}${request.path}`;
    const context = new RequestContext(url, request.method);
    context.setSignal(request.signal);
    context.setHeaderParam('Accept', 'application/json');
    context.setHeaderParam('User-Agent', this.#userAgent);
    if (request.body !== undefined) {
      context.setHeaderParam('Content-Type', 'application/json');
      context.setBody(request.body);
    }
    // A credential plugin may hang, and knows of no signal.
    await abortable(this.#config.applySecurityAuthentication(context), request.signal);
    this.#sharePool(context);
    const { httpStatusCode, headers, body } = await this.#http.send(context).toPromise();
    return {
      httpStatus: httpStatusCode,
      retryAfter: headers['retry-after'],
      text: async () => await body.text(),
      pieces: () => body.stream() ?? noPieces(),
    };
  }

  /** New requests get a new pool; what is under way on the old one goes on. */
  renewPool(): void {
    const old = this.#pool?.pool;
    this.#pool = undefined;
    if (old === undefined) return;
    this.#givenUp.add(old);
    old.close().then(
      () => this.#givenUp.delete(old),
      // It was destroyed meanwhile.
      () => this.#givenUp.delete(old),
    );
  }

  /** To be called when no request is under way any more. A dead peer does not hold it up. */
  async close(): Promise<void> {
    this.renewPool();
    await Promise.all([...this.#givenUp].map(async (pool) => await pool.destroy()));
  }

  #sharePool(context: RequestContext): void {
    const fresh = context.getDispatcher();
    if (fresh === undefined) return;
    const now = performance.now();
    if (this.#pool !== undefined && now - this.#pool.sinceMs > poolAgeMsMax) this.renewPool();
    // One that is not used has no connections, so there is nothing to close.
    this.#pool ??= { pool: fresh, sinceMs: now };
    context.setDispatcher(this.#pool.pool);
  }
}

async function* noPieces(): AsyncGenerator<Uint8Array> {
  // An answer without a body.
}

/** Settles like `promise`, but rejects with the signal's reason as soon as that is aborted. */
export async function abortable<Value>(
  promise: Promise<Value>,
  signal: AbortSignal,
): Promise<Value> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
