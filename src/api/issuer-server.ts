/**
 * The one service of ours that a caller without a certificate may call, since it gives them. Who the caller is, is told by
 * its token, which somebody else reviews; which node the certificate names is that review's result and never the
 * caller's word. Tokens are secrets: they are in no log and no message.
 */
import { Server } from '@grpc/grpc-js';
import { describeError, type Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import { apiPolicy } from './api-policy.ts';
import { invalidArgument, requireText } from './arguments.ts';
import type { Endpoint } from './endpoint.ts';
import * as wire from './generated/issuer.ts';
import {
  addService,
  listenSecurely,
  type CallContext,
  type ListeningServer,
} from './grpc-server.ts';
import type { TlsIdentity } from './tls/identity.ts';
import { ChangingServerCredentials } from './tls/server-credentials.ts';
import type { TlsSource } from './tls/tls-source.ts';

export type TokenVerdict =
  | { readonly kind: 'accepted'; readonly nodeId: string }
  /** `reason` goes to the caller and into the log. */
  | { readonly kind: 'refused'; readonly reason: string };

/** Rejects when nobody can tell now: the caller then tries again later. */
export type ReviewToken = (token: string, signal: AbortSignal) => Promise<TokenVerdict>;

export interface CertificateSigner extends TlsSource {
  issue(identity: TlsIdentity, csrDer: Uint8Array): string;
}

export interface IssuerServerOptions {
  readonly endpoint: Endpoint;
  readonly driverName: string;
  /** Shows a certificate to callers and signs theirs. */
  readonly tls: CertificateSigner;
  readonly review: ReviewToken;
  readonly logger: Logger;
  /** How many tokens are reviewed at a time; more are refused with LIMIT_REACHED. 16 unless given. */
  readonly reviewsMax?: number;
  /** How long a review may take; 10 s unless given. */
  readonly reviewMs?: number;
}

const csrBytesMax = 4096;
const tokenBytesMax = 16 * 1024;
const messageBytesMax = 32 * 1024;
/** A caller asks once in hours: its connection need not stay. */
const connectionMs = 60_000;

export async function startIssuerServer(options: IssuerServerOptions): Promise<ListeningServer> {
  const { endpoint, tls, logger } = options;
  const server = new Server({
    'grpc.max_receive_message_length': messageBytesMax,
    'grpc.max_connection_age_ms': connectionMs,
    'grpc.max_connection_age_grace_ms': connectionMs,
    'grpc.max_concurrent_streams': 4,
  });
  const issuer = new Issuer(options);
  const handlers = {
    issueCertificate: (request: wire.IssueCertificateRequest, context: CallContext) =>
      issuer.issue(request, context.signal),
  };
  addService(server, wire.IssuerService, handlers, apiPolicy(logger, { describe: withoutToken }));
  return await listenSecurely(server, endpoint, new ChangingServerCredentials(tls, 'anybody'));
}

function withoutToken(request: unknown): unknown {
  if (request === undefined) return undefined;
  const { csrDer, token } = request as wire.IssueCertificateRequest;
  return { csrBytes: csrDer.length, tokenBytes: token.length };
}

class Issuer {
  readonly #options: IssuerServerOptions;
  readonly #reviewsMax: number;
  readonly #reviewMs: number;
  #reviews = 0;

  constructor(options: IssuerServerOptions) {
    this.#options = options;
    this.#reviewsMax = options.reviewsMax ?? 16;
    this.#reviewMs = options.reviewMs ?? 10_000;
  }

  async issue(
    { csrDer, token }: wire.IssueCertificateRequest,
    signal: AbortSignal,
  ): Promise<wire.IssueCertificateResponse> {
    if (csrDer.length === 0 || csrDer.length > csrBytesMax) {
      throw invalidArgument('csr_der', `it must have 1 to ${csrBytesMax} bytes`);
    }
    requireText('token', token, tokenBytesMax);
    const verdict = await this.#limited(() => this.#review(token, signal));
    if (verdict.kind === 'refused') {
      throw new VolumeError('PERMISSION_DENIED', `issue a certificate: ${verdict.reason}`);
    }
    const { driverName, tls, logger } = this.#options;
    const { nodeId } = verdict;
    if (nodeId === '') {
      throw new VolumeError('UNAVAILABLE', 'issue a certificate: the pod of the token has no node');
    }
    const certificatePem = tls.issue({ kind: 'volumedriver', driverName, nodeId }, csrDer);
    logger.info('certificate issued', { nodeId });
    return { certificatePem };
  }

  async #limited<Result>(action: () => Promise<Result>): Promise<Result> {
    if (this.#reviews >= this.#reviewsMax) {
      throw new VolumeError(
        'LIMIT_REACHED',
        `issue a certificate: ${this.#reviewsMax} others are being reviewed; repeat later`,
      );
    }
    this.#reviews += 1;
    try {
      return await action();
    } finally {
      this.#reviews -= 1;
    }
  }

  async #review(token: string, signal: AbortSignal): Promise<TokenVerdict> {
    const limited = AbortSignal.any([signal, AbortSignal.timeout(this.#reviewMs)]);
    const ended = Promise.withResolvers<never>();
    limited.addEventListener('abort', () => {
      ended.reject(new VolumeError('UNAVAILABLE', 'review a token: it takes too long'));
    });
    try {
      // A review that does not heed the signal must not hold its place for ever.
      return await Promise.race([this.#options.review(token, limited), ended.promise]);
    } catch (error) {
      // Not as its cause: what it says may be more than a caller should read.
      this.#options.logger.warn('a token could not be reviewed', { error: describeError(error) });
      throw new VolumeError(
        'UNAVAILABLE',
        'issue a certificate: the token cannot be reviewed now, since the Kubernetes API does not answer; repeat later',
      );
    }
  }
}
