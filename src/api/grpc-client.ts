/** What our gRPC clients share: how they connect, and calls as promises with a deadline and our errors. */
import {
  Client,
  connectivityState,
  credentials,
  Metadata,
  status,
  type ChannelOptions,
  type ServiceError,
} from '@grpc/grpc-js';
import { VolumeError } from '../volumes/errors.ts';
import { formatEndpoint, grpcTarget, requireProtection, type Endpoint } from './endpoint.ts';
import { fromApiStatus } from './status.ts';
import { PeerCredentials, type PeerTls } from './tls/peer-credentials.ts';

const clientOptions: ChannelOptions = {
  // Over a unix socket the authority would be a path, which HTTP/2 servers reject.
  'grpc.default_authority': 'localhost',
  // The peer is a process on this machine: after its restart be there within a second or two, not minutes.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.min_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2000,
  // Each client has its own connection, which its close() ends.
  'grpc.use_local_subchannel_pool': 1,
  // The peer is where the endpoint says, whatever the environment says about the web.
  'grpc.enable_http_proxy': 0,
};

/** A peer on another machine can be gone without a word: while a call waits, ask whether it is there. */
const remoteOptions: ChannelOptions = {
  ...clientOptions,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 10_000,
};

/** What ts-proto generates for one method, as far as a call needs it. */
export interface UnaryMethod<Request, Response> {
  readonly path: string;
  readonly requestSerialize: (value: Request) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

/** A channel and the calls on it. */
interface Connection {
  readonly client: Client;
  calls: number;
}

/** One peer and the connection to it, which is made when it is needed. */
export class GrpcPeer {
  readonly #name: string;
  readonly #open: () => Client;
  readonly #isRemote: boolean;
  #current: Connection;
  #closed = false;

  /** `role` names the peer in errors, as in "the volumedriver". INVALID_ARGUMENT beyond loopback without `tls`. */
  constructor(role: string, endpoint: Endpoint, tls?: PeerTls) {
    requireProtection(endpoint, tls !== undefined);
    const target = grpcTarget(endpoint);
    this.#name = `${role} at ${formatEndpoint(endpoint)}`;
    this.#isRemote = tls !== undefined;
    this.#open = () =>
      tls === undefined
        ? new Client(target, credentials.createInsecure(), clientOptions)
        : new Client(target, new PeerCredentials(tls), remoteOptions);
    this.#current = { client: this.#open(), calls: 0 };
  }

  close(): void {
    this.#closed = true;
    this.#current.client.close();
  }

  /** Makes one call. Rejects with the service's VolumeError, or UNAVAILABLE when it doesn't answer in time. */
  async call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
    timeoutMs: number,
  ): Promise<Response> {
    const connection = this.#current;
    connection.calls += 1;
    try {
      const response = await callOnce(connection.client, method, request, timeoutMs);
      if (response !== undefined) return response;
    } catch (error) {
      if (!isServiceError(error)) throw error;
      if (error.code === status.DEADLINE_EXCEEDED) this.#giveUp(connection);
      throw fromApiStatus(error, this.#name);
    } finally {
      connection.calls -= 1;
      this.#endIfUnused(connection);
    }
    throw new VolumeError('PROTOCOL_ERROR', `call ${this.#name}: it answered nothing`);
  }

  /**
   * The next call makes a connection of its own when this one has not come about: to a machine that was switched off, the
   * kernel tries for two minutes, less and less often, and would find it late when it is back.
   */
  #giveUp(connection: Connection): void {
    if (!this.#isRemote || this.#closed || connection !== this.#current) return;
    const state = connection.client.getChannel().getConnectivityState(false);
    if (state === connectivityState.READY) return;
    this.#current = { client: this.#open(), calls: 0 };
  }

  #endIfUnused(connection: Connection): void {
    if (connection !== this.#current && connection.calls === 0) connection.client.close();
  }
}

/** Rejects with gRPC's own error. */
function callOnce<Request, Response>(
  client: Client,
  method: UnaryMethod<Request, Response>,
  request: Request,
  timeoutMs: number,
): Promise<Response | undefined> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
      { deadline: Date.now() + timeoutMs },
      (error, response) => {
        if (error === null) resolve(response);
        else reject(error);
      },
    );
  });
}

function isServiceError(error: unknown): error is ServiceError {
  return typeof error === 'object' && error !== null && 'code' in error && 'metadata' in error;
}
