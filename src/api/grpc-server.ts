/**
 * A gRPC server in one place: every RPC of every role passes the same wrapper, which decodes the request, checks
 * it, runs the handler, turns an error into a status and reports the call once. What differs between roles
 * (limits, status codes, logging) comes in as RpcPolicy.
 */
import {
  ServerCredentials,
  status,
  type Metadata,
  type MethodDefinition as GrpcMethod,
  type sendUnaryData,
  type Server,
  type ServerUnaryCall,
  type ServerWritableStream,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { once } from 'node:events';
import type { PeerCertificate } from 'node:tls';
import { AssertionError } from '../base/assert.ts';
import { toVolumeError, VolumeError } from '../volumes/errors.ts';
import {
  grpcTarget,
  prepareSocket,
  protectSocket,
  requireProtection,
  type Endpoint,
} from './endpoint.ts';
import { listenWithTls } from './tls/tls-listener.ts';

export interface CallContext {
  /** Aborted when the caller gave up or its deadline passed. */
  readonly signal: AbortSignal;
}

export interface RpcStatus {
  code: status;
  /** Never empty, never with secrets. */
  details: string;
  metadata?: Metadata;
}

export interface FinishedCall {
  /** Such as /csi.v1.Node/NodeStageVolume. */
  path: string;
  /** The decoded request; undefined when it could not be decoded. */
  request: unknown;
  code: status;
  /** What the handler rejected with. */
  error?: VolumeError;
  durationMs: number;
}

export interface RpcPolicy {
  /** Throws PERMISSION_DENIED for a caller that may not call this; `peer` is null without mutual TLS. */
  authorize?(path: string, peer: PeerCertificate | null): void;
  /** Throws INVALID_ARGUMENT for a request that no handler should see. */
  check(path: string, request: unknown): void;
  toStatus(path: string, error: VolumeError): RpcStatus;
  finished(call: FinishedCall): void;
}

/** What ts-proto generates for one method, as far as the wrapper needs it. */
interface MethodDefinition {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestSerialize: (value: never) => Buffer;
  readonly requestDeserialize: (bytes: Buffer) => unknown;
  readonly responseSerialize: (value: never) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => unknown;
}
export type ServiceMethods = Readonly<Record<string, MethodDefinition>>;

type Handler = (request: never, context: CallContext) => Promise<unknown> | AsyncIterable<unknown>;
export type ServiceHandlers = Readonly<Record<string, Handler | undefined>>;

/** Requests arrive as bytes: the wrapper decodes them, so that undecodable ones are INVALID_ARGUMENT and logged. */
type RawMethod = GrpcMethod<Buffer, Buffer>;
type RawCall = ServerUnaryCall<Buffer, Buffer>;
type RawStream = ServerWritableStream<Buffer, Buffer>;

export function addService(
  server: Server,
  methods: ServiceMethods,
  handlers: ServiceHandlers,
  policy: RpcPolicy,
): void {
  const implementation: UntypedServiceImplementation = {};
  const raw: Record<string, RawMethod> = {};
  for (const [name, method] of Object.entries(methods)) {
    const rpc = new Rpc(method, handlers[name]?.bind(handlers), policy);
    raw[name] = {
      path: method.path,
      requestStream: method.requestStream,
      responseStream: method.responseStream,
      requestSerialize: asBytes,
      requestDeserialize: asBytes,
      responseSerialize: asBytes,
      responseDeserialize: asBytes,
    };
    implementation[name] = method.responseStream
      ? (call: RawStream) => void rpc.serveStream(call)
      : (call: RawCall, reply: sendUnaryData<Buffer>) => void rpc.serveUnary(call, reply);
  }
  server.addService(raw, implementation);
}

function asBytes(bytes: Buffer): Buffer {
  return bytes;
}

class Rpc {
  readonly #method: MethodDefinition;
  readonly #handler: Handler | undefined;
  readonly #policy: RpcPolicy;

  constructor(method: MethodDefinition, handler: Handler | undefined, policy: RpcPolicy) {
    this.#method = method;
    this.#handler = handler;
    this.#policy = policy;
  }

  async serveUnary(call: RawCall, reply: sendUnaryData<Buffer>): Promise<void> {
    const failed = await this.#run(call, async (result) => {
      reply(null, this.#encode(await result));
    });
    if (failed !== null) reply(failed, null);
  }

  async serveStream(call: RawStream): Promise<void> {
    const failed = await this.#run(call, async (result, signal) => {
      for await (const message of result as AsyncIterable<unknown>) {
        signal.throwIfAborted();
        // A slow reader stops the source instead of filling our memory.
        if (!call.write(this.#encode(message))) await once(call, 'drain', { signal });
      }
      call.end();
    });
    if (failed !== null) call.emit('error', failed);
  }

  /** Runs one call and reports it; returns the status to fail with, or null when it was answered. */
  async #run(
    call: RawCall | RawStream,
    answer: (result: unknown, signal: AbortSignal) => Promise<void>,
  ): Promise<RpcStatus | null> {
    const { path } = this.#method;
    const startMs = performance.now();
    const gaveUp = new AbortController();
    call.on('cancelled', () => {
      gaveUp.abort(new VolumeError('UNAVAILABLE', `${path}: the caller gave up`));
    });
    let request: unknown;
    let failure: { status: RpcStatus; error: VolumeError } | null = null;
    try {
      request = this.#receive(call);
      this.#policy.check(path, request);
      if (this.#handler === undefined) {
        throw new VolumeError('NOT_IMPLEMENTED', `${path}: this plugin does not offer it`);
      }
      await answer(this.#handler(request as never, { signal: gaveUp.signal }), gaveUp.signal);
    } catch (caught) {
      if (caught instanceof AssertionError) crash(caught);
      const known = caught instanceof VolumeError || !gaveUp.signal.aborted;
      const error = toVolumeError(known ? caught : gaveUp.signal.reason, path);
      failure = { status: this.#policy.toStatus(path, error), error };
    }
    this.#policy.finished({
      path,
      request,
      code: failure?.status.code ?? status.OK,
      ...(failure === null ? {} : { error: failure.error }),
      durationMs: Math.round(performance.now() - startMs),
    });
    return failure?.status ?? null;
  }

  #receive(call: RawCall | RawStream): unknown {
    const { sslPeerCertificate } = call.getAuthContext();
    this.#policy.authorize?.(this.#method.path, sslPeerCertificate ?? null);
    return this.#decode(call.request);
  }

  #decode(bytes: Buffer): unknown {
    try {
      return this.#method.requestDeserialize(bytes);
    } catch (error) {
      throw toVolumeError(
        error,
        `${this.#method.path}: the request can't be decoded`,
        'INVALID_ARGUMENT',
      );
    }
  }

  #encode(message: unknown): Buffer {
    return (this.#method.responseSerialize as (value: unknown) => Buffer)(message);
  }
}

/** Our own code is wrong: the caller still gets its answer, then the process ends as any failed assertion ends it. */
function crash(error: AssertionError): void {
  setImmediate(() => {
    throw error;
  });
}

const graceMsDefault = 5000;

export interface ListeningServer {
  /** With the port that was chosen when it was 0. */
  readonly endpoint: Endpoint;
  /** Takes no new calls and waits for running ones, at most `graceMs`. */
  close(graceMs?: number): Promise<void>;
}

/** On a unix socket, or on loopback without TLS. UNAVAILABLE when nobody can listen there. */
export async function listen(server: Server, endpoint: Endpoint): Promise<ListeningServer> {
  requireProtection(endpoint, false);
  if (endpoint.kind === 'unix') await prepareSocket(endpoint.path);
  const port = await bind(server, endpoint);
  if (endpoint.kind === 'unix') await protectSocket(endpoint.path);
  return {
    endpoint: endpoint.kind === 'unix' ? endpoint : { ...endpoint, port },
    close: (graceMs = graceMsDefault) => shutDown(server, graceMs),
  };
}

/** On any address, with TLS. INVALID_ARGUMENT for a unix socket; UNAVAILABLE when nobody can listen there. */
export async function listenSecurely(
  server: Server,
  endpoint: Endpoint,
  credentials: ServerCredentials,
): Promise<ListeningServer> {
  if (endpoint.kind === 'unix') {
    throw new VolumeError('INVALID_ARGUMENT', 'listen with TLS: it needs tcp:HOST:PORT');
  }
  const listener = await listenWithTls(server, endpoint, credentials);
  return {
    endpoint: { ...endpoint, port: listener.port },
    close: async (graceMs = graceMsDefault) => {
      listener.stop();
      await shutDown(server, graceMs);
      listener.destroy();
    },
  };
}

function bind(server: Server, endpoint: Endpoint): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(grpcTarget(endpoint), ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) resolve(port);
      else
        reject(
          new VolumeError('UNAVAILABLE', `listen on ${grpcTarget(endpoint)}: ${error.message}`, {
            cause: error,
          }),
        );
    });
  });
}

function shutDown(server: Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, graceMs);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
