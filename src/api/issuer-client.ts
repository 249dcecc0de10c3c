/** How a volumedriver asks a controller for a certificate. */
import { GrpcPeer } from './grpc-client.ts';
import type { TcpEndpoint } from './endpoint.ts';
import { IssuerService as rpc } from './generated/issuer.ts';
import { MaterialCell } from './tls/tls-source.ts';

export interface CertificateQuestion {
  readonly issuer: TcpEndpoint;
  readonly driverName: string;
  /** The CAs of which the issuer's own certificate must be. */
  readonly trustPem: string;
  readonly csrDer: Uint8Array;
  readonly token: string;
}

const timeoutMs = 20_000;

/** A certificate in PEM, unchecked. Rejects with the issuer's error, or UNAVAILABLE when it can't be asked. */
export async function requestCertificate(question: CertificateQuestion): Promise<string> {
  const { issuer, driverName, trustPem, csrDer, token } = question;
  const source = new MaterialCell();
  source.set({ trustPem, own: null });
  const expect = { kind: 'controller', driverName } as const;
  // Asked once in hours: a connection for each time.
  const peer = new GrpcPeer('the issuer of certificates', issuer, { source, expect });
  try {
    const request = { csrDer: Buffer.from(csrDer), token };
    const { certificatePem } = await peer.call(rpc.issueCertificate, request, timeoutMs);
    return certificatePem;
  } finally {
    peer.close();
  }
}
