/**
 * An API server over HTTP, or HTTP/2 with a certificate, for the few resources that this product uses, with the bad days of a real one: it can be
 * stopped and started on the same port, refuse, fail, hang, be slow, fall silent under a watch, cut connections, and
 * forget old versions. What it sends was compared with a kube-apiserver's answers.
 */
import { createServer, type IncomingMessage } from 'node:http';
import { createSecureServer, type Http2ServerRequest } from 'node:http2';
import type { AddressInfo, Server as NetServer, Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import {
  kinds,
  KubeStore,
  matches,
  notFound,
  StatusError,
  type Change,
  type Filter,
  type NewObject,
} from './kube-api-server-store.ts';

export interface TokenOwner {
  readonly username: string;
  readonly audiences: readonly string[];
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

export interface SeenRequest {
  readonly verb: string;
  readonly plural: string;
  readonly url: string;
  readonly userAgent: string | undefined;
  readonly authorization: string | undefined;
  readonly httpVersion: string;
}

/** What the server answers instead of the right thing. */
export interface Fault {
  /** Absent: any. */
  readonly verb?: string;
  readonly plural?: string;
  /** Asked for each request that fits. */
  readonly when?: () => boolean;
  /** How many requests it hits; absent: all until it is lifted. */
  readonly times?: number;
  readonly answer:
    | {
        readonly kind: 'status';
        readonly code: number;
        readonly reason: string;
        readonly retryAfter?: number;
      }
    | { readonly kind: 'raw'; readonly code: number; readonly body: string }
    /** No answer at all. */
    | { readonly kind: 'hang' }
    | { readonly kind: 'cut' }
    | { readonly kind: 'slow'; readonly ms: number };
}

export interface Certificate {
  readonly key: string;
  readonly cert: string;
}

type Request = IncomingMessage | Http2ServerRequest;

/** What an answer of HTTP and one of HTTP/2 have in common. */
interface Response {
  setHeader(name: string, value: string): unknown;
  writeHead(code: number, headers?: Readonly<Record<string, string>>): unknown;
  /** HTTP/2 sends the head at once. */
  flushHeaders?(): void;
  write(data: string | Uint8Array): unknown;
  end(data: string): unknown;
  destroy(): unknown;
  on(event: 'error', listener: () => void): unknown;
  once(event: 'close', listener: () => void): unknown;
}

interface Place {
  readonly plural: string;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
}

interface ReviewRequest {
  readonly spec?: { readonly token?: string; readonly audiences?: readonly string[] };
}

export class KubeApiServer {
  readonly store = new KubeStore();
  readonly tokens = new Map<string, TokenOwner>();
  readonly requests: SeenRequest[] = [];
  /** Whether a watch ends with a bookmark. */
  bookmarks = true;
  readonly #certificate: Certificate | undefined;
  readonly #faults = new Set<{ fault: Fault; left: number }>();
  readonly #sockets = new Set<Socket>();
  readonly #watches = new Set<Watch>();
  #server: NetServer | undefined;
  #port = 0;
  #connections = 0;

  private constructor(certificate: Certificate | undefined) {
    this.#certificate = certificate;
  }

  static async start(certificate?: Certificate): Promise<KubeApiServer> {
    const server = new KubeApiServer(certificate);
    await server.restart();
    return server;
  }

  get url(): string {
    return `http${this.#certificate === undefined ? '' : 's'}://127.0.0.1:${this.#port}`;
  }

  get port(): number {
    return this.#port;
  }

  /** TCP connections since the start, also the closed ones. */
  get connections(): number {
    return this.#connections;
  }

  get openWatches(): number {
    return this.#watches.size;
  }

  /** JSON is YAML, too. */
  kubeconfig(namespace = 'storage'): string {
    return JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [
        { name: 'double', cluster: { server: this.url, 'insecure-skip-tls-verify': true } },
      ],
      users: [{ name: 'tester', user: { token: 'kubeconfig-token' } }],
      contexts: [{ name: 'double', context: { cluster: 'double', user: 'tester', namespace } }],
      'current-context': 'double',
    });
  }

  /** On the same port as before; objects and versions are kept. */
  async restart(): Promise<void> {
    await this.stop();
    const onRequest = (request: Request, response: Response): void => {
      void this.#handle(request, response);
    };
    const server =
      this.#certificate === undefined
        ? createServer(onRequest)
        : createSecureServer({ ...this.#certificate, allowHTTP1: true }, onRequest);
    server.on('connection', (socket: Socket) => {
      this.#connections += 1;
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    const listening = Promise.withResolvers<void>();
    server.once('error', listening.reject);
    server.listen(this.#port, '127.0.0.1', listening.resolve);
    await listening.promise;
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = Promise.withResolvers<void>();
    server.close(() => closed.resolve());
    this.cutConnections();
    await closed.promise;
  }

  cutConnections(): void {
    for (const watch of this.#watches) watch.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Open watches say nothing any more, not even that they end; new ones work. */
  silenceWatches(): void {
    for (const watch of this.#watches) watch.silent = true;
  }

  /** Sends something of the test's own on all open watches. */
  sendOnWatches(line: string | Uint8Array): void {
    for (const watch of this.#watches) watch.response.write(line);
  }

  /** Returns how to lift it. */
  inject(fault: Fault): () => void {
    const entry = { fault, left: fault.times ?? Infinity };
    this.#faults.add(entry);
    return () => void this.#faults.delete(entry);
  }

  async #handle(request: Request, response: Response): Promise<void> {
    response.on('error', () => undefined);
    try {
      const url = new URL(request.url ?? '', this.url);
      const place = placeOf(url.pathname);
      const verb = verbOf(request.method ?? '', place, url);
      this.requests.push({
        verb,
        plural: place.plural,
        url: request.url ?? '',
        userAgent: request.headers['user-agent'],
        authorization: request.headers.authorization,
        httpVersion: request.httpVersion,
      });
      if (await this.#fail(verb, place.plural, response)) return;
      const body = await text(request);
      if (verb === 'watch') this.#watch(url, place, response);
      else send(response, 200, this.#answer(verb, place, url, body));
    } catch (error) {
      if (!(error instanceof StatusError)) throw error;
      sendStatus(response, error);
    }
  }

  #answer(verb: string, place: Place, url: URL, body: string): object {
    const { plural, namespace, name } = place;
    switch (verb) {
      case 'get':
        return this.store.get(plural, namespace, name ?? '');
      case 'list':
        return this.#list(url, place);
      case 'create':
        if (plural === 'tokenreviews') return this.#review(JSON.parse(body) as ReviewRequest);
        return this.store.create(plural, JSON.parse(body) as NewObject);
      case 'update':
        return this.store.update(plural, JSON.parse(body) as NewObject);
      default:
        throw new StatusError(405, 'MethodNotAllowed', `${verb} is not supported`);
    }
  }

  /** Applies the first fault that fits. Resolves with whether that was the answer. */
  async #fail(verb: string, plural: string, response: Response): Promise<boolean> {
    for (const entry of this.#faults) {
      const { fault } = entry;
      if ((fault.verb ?? verb) !== verb || (fault.plural ?? plural) !== plural) continue;
      if (entry.left <= 0 || fault.when?.() === false) continue;
      entry.left -= 1;
      const { answer } = fault;
      switch (answer.kind) {
        case 'status': {
          const { code, reason, retryAfter } = answer;
          if (retryAfter !== undefined) response.setHeader('Retry-After', `${retryAfter}`);
          throw new StatusError(code, reason, `${plural}: ${reason} (a planned fault)`);
        }
        case 'raw':
          response.writeHead(answer.code);
          response.end(answer.body);
          return true;
        case 'hang':
          return true;
        case 'cut':
          response.destroy();
          return true;
        case 'slow':
          await new Promise((resolve) => setTimeout(resolve, answer.ms));
          return false;
      }
    }
    return false;
  }

  #list(url: URL, place: Place): object {
    const all = this.store.list(filterOf(url, place));
    const from = Number(url.searchParams.get('continue') ?? '0');
    const limit = Number(url.searchParams.get('limit') ?? '0') || Infinity;
    const to = Math.min(all.length, from + limit);
    return {
      kind: `${kinds[place.plural] ?? ''}List`,
      apiVersion: 'v1',
      metadata: {
        resourceVersion: `${this.store.version}`,
        ...(to < all.length ? { continue: `${to}` } : {}),
      },
      items: all.slice(from, to),
    };
  }

  #watch(url: URL, place: Place, response: Response): void {
    const filter = filterOf(url, place);
    const changes = this.store.since(Number(url.searchParams.get('resourceVersion')));
    response.writeHead(200, { 'Content-Type': 'application/json' });
    response.flushHeaders?.();
    const watch = new Watch(response, filter);
    this.#watches.add(watch);
    const unsubscribe = this.store.onChange((change) => watch.send(change));
    const seconds = Number(url.searchParams.get('timeoutSeconds') ?? '1800');
    const timer = setTimeout(() => {
      if (this.bookmarks) watch.bookmark(this.store.version);
      watch.end();
    }, seconds * 1000);
    response.once('close', () => {
      clearTimeout(timer);
      unsubscribe();
      this.#watches.delete(watch);
    });
    for (const change of changes) watch.send(change);
  }

  #review({ spec }: ReviewRequest): object {
    const owner = this.tokens.get(spec?.token ?? '');
    const wanted = spec?.audiences ?? [];
    const audiences = (owner?.audiences ?? []).filter((audience) => wanted.includes(audience));
    const status =
      owner === undefined
        ? { user: {}, error: 'invalid bearer token' }
        : audiences.length === 0
          ? { user: {}, error: 'token audiences is invalid for the target audiences' }
          : {
              authenticated: true,
              audiences,
              user: { username: owner.username, uid: 'u', extra: owner.extra },
            };
    return { kind: 'TokenReview', metadata: { creationTimestamp: null }, spec, status };
  }
}

class Watch {
  readonly response: Response;
  silent = false;
  readonly #filter: Filter;

  constructor(response: Response, filter: Filter) {
    this.response = response;
    this.#filter = filter;
  }

  /** For this watch, an object comes and goes with its labels. */
  send({ type, plural, object, old }: Change): void {
    if (plural !== this.#filter.plural) return;
    const was = old !== undefined && matches(old, this.#filter);
    if (matches(object, this.#filter)) this.#line({ type: old && !was ? 'ADDED' : type, object });
    else if (was) this.#line({ type: 'DELETED', object });
  }

  bookmark(version: number): void {
    const kind = kinds[this.#filter.plural];
    const metadata = { resourceVersion: `${version}`, creationTimestamp: null };
    this.#line({ type: 'BOOKMARK', object: { kind, metadata } });
  }

  end(): void {
    if (!this.silent) this.response.end('');
  }

  close(): void {
    this.response.destroy();
  }

  #line(event: object): void {
    if (!this.silent) this.response.write(`${JSON.stringify(event)}\n`);
  }
}

function placeOf(path: string): Place {
  const parts = /^\/(?:api|apis\/[^/]+)\/v1(?:\/namespaces\/([^/]+))?\/([^/]+)(?:\/([^/]+))?$/.exec(
    path,
  );
  if (parts === null) throw notFound('', '');
  const [, namespace, plural = '', name] = parts.map((part: string | undefined) =>
    part === undefined ? undefined : decodeURIComponent(part),
  );
  if (kinds[plural] === undefined && plural !== 'tokenreviews') throw notFound('', '');
  return { plural, namespace, name };
}

function verbOf(method: string, place: Place, url: URL): string {
  if (method === 'POST') return 'create';
  if (method === 'PUT') return 'update';
  if (method === 'DELETE') return 'delete';
  if (place.name !== undefined) return 'get';
  return url.searchParams.get('watch') === 'true' ? 'watch' : 'list';
}

function filterOf(url: URL, { plural, namespace }: Place): Filter {
  return {
    plural,
    namespace,
    labelSelector: url.searchParams.get('labelSelector') ?? undefined,
    fieldSelector: url.searchParams.get('fieldSelector') ?? undefined,
  };
}

function send(response: Response, code: number, body: object): void {
  response.writeHead(code, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body));
}

function sendStatus(response: Response, { code, reason, message, details }: StatusError): void {
  const status = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure' };
  send(response, code, { ...status, message, reason, details, code });
}
