/**
 * A client's side of TLS 1.3. Each connection takes the certificates of that moment, and is used only when the server's
 * certificate leads to a CA of ours and names the very peer that was wanted.
 */
import { connect, createSecureContext, type PeerCertificate, type TLSSocket } from 'node:tls';
import type { Socket } from 'node:net';
import {
  ChannelCredentials,
  credentials,
  type CallCredentials,
  type experimental,
} from '@grpc/grpc-js';
import { VolumeError } from '../../volumes/errors.ts';
import { formatIdentity, identityOfAltName, isSameIdentity, type TlsIdentity } from './identity.ts';
import type { TlsSource } from './tls-source.ts';

export interface PeerTls {
  readonly source: TlsSource;
  /** Whom the server's certificate must name. */
  readonly expect: TlsIdentity;
}

const handshakeMs = 10_000;

export class PeerCredentials extends ChannelCredentials {
  readonly #tls: PeerTls;

  constructor(tls: PeerTls) {
    super();
    this.#tls = tls;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(
    _target: unknown,
    _options: unknown,
    callCredentials: CallCredentials = credentials.createEmpty(),
  ): experimental.SecureConnector {
    return {
      connect: async (socket) => ({ socket: await secure(socket, this.#tls), secure: true }),
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => callCredentials,
      destroy: () => undefined,
    };
  }
}

async function secure(socket: Socket, { source, expect }: PeerTls): Promise<TLSSocket> {
  const { material } = source;
  if (material === null) {
    throw new VolumeError('UNAVAILABLE', 'TLS: there is no certificate of our own yet');
  }
  const secureContext = createSecureContext({
    ca: material.trustPem,
    ...(material.own && { cert: material.own.certificatePem, key: material.own.keyPem }),
    minVersion: 'TLSv1.3',
  });
  const secured = Promise.withResolvers<TLSSocket>();
  const tls = connect({
    socket,
    secureContext,
    ALPNProtocols: ['h2'],
    // Said although it is the default, which NODE_TLS_REJECT_UNAUTHORIZED=0 in the environment would change.
    rejectUnauthorized: true,
    checkServerIdentity: (_host, certificate) => checkIdentity(certificate, expect),
  });
  tls.once('secureConnect', () => {
    secured.resolve(tls);
  });
  // Whoever uses the connection adds listeners of its own; until then, an error must not end the process.
  tls.on('error', (error) => {
    secured.reject(error);
  });
  tls.once('close', () => {
    secured.reject(new VolumeError('UNAVAILABLE', 'the connection ended in the TLS handshake'));
  });
  const late = setTimeout(() => {
    tls.destroy(new VolumeError('UNAVAILABLE', `no TLS handshake within ${handshakeMs} ms`));
  }, handshakeMs);
  try {
    return await secured.promise;
  } finally {
    clearTimeout(late);
  }
}

function checkIdentity(certificate: PeerCertificate, expect: TlsIdentity): Error | undefined {
  const found = identityOfAltName(certificate.subjectaltname);
  if (found !== null && isSameIdentity(found, expect)) return undefined;
  const names = found === null ? 'no identity of ours' : formatIdentity(found);
  return new VolumeError(
    'UNAVAILABLE',
    `the certificate there names ${names} and not ${formatIdentity(expect)}`,
  );
}
