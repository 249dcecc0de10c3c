/** What our gRPC clients share: how they connect, and calls as promises with a deadline and our errors. */
import { Client, credentials, Metadata, type ChannelOptions } from '@grpc/grpc-js';
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

/** One peer and the connection to it, which is made when it is needed. */
export class GrpcPeer {
  readonly #client: Client;
  readonly #name: string;

  /** `role` names the peer in errors, as in "the volumedriver". INVALID_ARGUMENT beyond loopback without `tls`. */
  constructor(role: string, endpoint: Endpoint, tls?: PeerTls) {
    requireProtection(endpoint, tls !== undefined);
    this.#client =
      tls === undefined
        ? new Client(grpcTarget(endpoint), credentials.createInsecure(), clientOptions)
        : new Client(grpcTarget(endpoint), new PeerCredentials(tls), remoteOptions);
    this.#name = `${role} at ${formatEndpoint(endpoint)}`;
  }

  close(): void {
    this.#client.close();
  }

  /** Makes one call. Rejects with the service's VolumeError, or UNAVAILABLE when it doesn't answer in time. */
  call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
    timeoutMs: number,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        new Metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, response) => {
          if (error !== null) reject(fromApiStatus(error, this.#name));
          else if (response !== undefined) resolve(response);
          else reject(new VolumeError('PROTOCOL_ERROR', `call ${this.#name}: it answered nothing`));
        },
      );
    });
  }
}
