/**
 * A certificate authority: its certificate and key, and what it signs. A certificate of ours names one identity, may be
 * used only as that identity's role needs, and never outlives the authority.
 */
import type { KeyObject, X509Certificate } from 'node:crypto';
import { VolumeError } from '../../volumes/errors.ts';
import { formatIdentity, type TlsIdentity } from './identity.ts';
import {
  bad,
  expiryMs,
  formatTime,
  isRoot,
  isValidAt,
  parseCertificates,
  parsePrivateKey,
} from './trust.ts';
import { createCertificate, isSigningKey } from './x509.ts';

export const certificateLifetimeMs = 24 * 3600 * 1000;
/** Certificates are valid a little earlier than they are made: clocks of two nodes differ. */
export const clockSkewMs = 5 * 60 * 1000;

/** A controller serves the issuer and calls volumedrivers; a volumedriver is only called. */
const usages = { controller: ['client', 'server'], volumedriver: ['server'] } as const;

export interface AuthorityFiles {
  /** For messages, such as the path of the certificate. */
  readonly name: string;
  /** The authority's certificate; those of its own signers may follow. */
  readonly certificatePem: string;
  readonly keyPem: string;
}

export class Authority {
  readonly name: string;
  readonly certificate: X509Certificate;
  readonly #key: KeyObject;
  /** What belongs to each certificate of ours up to a root, which is not sent: in PEM. */
  readonly #chainPem: string;

  /** INVALID_ARGUMENT when it can't sign; an expired one is taken, and says so when it should sign. */
  constructor({ name, certificatePem, keyPem }: AuthorityFiles) {
    const [certificate, ...others] = parseCertificates(`CA certificate ${name}`, certificatePem);
    const key = parsePrivateKey(`key of CA ${name}`, keyPem);
    if (certificate?.ca !== true) {
      throw bad(`CA certificate ${name}`, 'it is not the certificate of a CA (basic constraints)');
    }
    if (!isSigningKey(key)) throw bad(`key of CA ${name}`, 'it must be an RSA or ECDSA key');
    if (!certificate.checkPrivateKey(key)) {
      throw bad(`key of CA ${name}`, "it is not the certificate's key");
    }
    this.name = name;
    this.certificate = certificate;
    this.#key = key;
    this.#chainPem = [certificate, ...others]
      .filter((link) => !isRoot(link))
      .map(String)
      .join('');
  }

  get expiresAtMs(): number {
    return expiryMs(this.certificate);
  }

  /**
   * A new certificate and what belongs to it, in PEM. UNAVAILABLE when the authority has expired or is not valid yet:
   * another one may take its place.
   */
  issue(
    identity: TlsIdentity,
    publicKey: KeyObject,
    { nowMs, lifetimeMs = certificateLifetimeMs }: { nowMs: number; lifetimeMs?: number },
  ): string {
    const { validFromDate } = this.certificate;
    if (!isValidAt(this.certificate, nowMs)) {
      const validity = `valid from ${formatTime(validFromDate.getTime())} to ${formatTime(this.expiresAtMs)}`;
      throw new VolumeError(
        'UNAVAILABLE',
        `sign with the CA ${this.name}: it is ${validity} and now it is ${formatTime(nowMs)}; ` +
          'put a valid CA in its place',
      );
    }
    const certificate = createCertificate(
      {
        subject: identity.kind,
        publicKey,
        notBeforeMs: nowMs - clockSkewMs,
        notAfterMs: Math.min(nowMs + lifetimeMs, this.expiresAtMs),
        uri: formatIdentity(identity),
        usages: usages[identity.kind],
      },
      { key: this.#key, certificate: this.certificate },
    );
    return certificate.toString() + this.#chainPem;
  }
}

/** The middle of the time for which it was given. */
export function renewalMs(certificate: X509Certificate): number {
  const givenMs = certificate.validFromDate.getTime() + clockSkewMs;
  return givenMs + (expiryMs(certificate) - givenMs) / 2;
}
