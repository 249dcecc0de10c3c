/** Whether a certificate may be used as our own. */
import type { X509Certificate } from 'node:crypto';
import { VolumeError } from '../../volumes/errors.ts';
import { formatIdentity, identityOfAltName, isSameIdentity, type TlsIdentity } from './identity.ts';
import {
  expiryMs,
  formatTime,
  isTrusted,
  isValidAt,
  parseCertificates,
  parsePrivateKey,
} from './trust.ts';

export interface OwnPem {
  /** The certificate, and what leads from it to a trusted one. */
  readonly certificatePem: string;
  readonly keyPem: string;
}

export interface OwnChecks {
  /** For messages. */
  readonly what: string;
  readonly identity: TlsIdentity;
  readonly trusted: readonly X509Certificate[];
  readonly nowMs: number;
}

/** The certificate when all is well with it; INVALID_ARGUMENT says what is wrong. */
export function checkOwn(own: OwnPem, checks: OwnChecks): X509Certificate {
  const { what, identity, trusted, nowMs } = checks;
  const chain = parseCertificates(what, own.certificatePem);
  const [certificate] = chain;
  const key = parsePrivateKey(`key of ${what}`, own.keyPem);
  const wrong = (why: string): VolumeError =>
    new VolumeError('INVALID_ARGUMENT', `${what}: ${why}`);
  if (certificate?.checkPrivateKey(key) !== true) throw wrong('the key is that of another one');
  const found = identityOfAltName(certificate.subjectAltName);
  if (found === null || !isSameIdentity(found, identity)) {
    const names = found === null ? 'no identity of ours' : formatIdentity(found);
    throw wrong(`it names ${names} and not ${formatIdentity(identity)}`);
  }
  if (!isValidAt(certificate, nowMs)) {
    const from = formatTime(certificate.validFromDate.getTime());
    const to = formatTime(expiryMs(certificate));
    throw wrong(`it is valid from ${from} to ${to}, and now it is ${formatTime(nowMs)}`);
  }
  if (!isTrusted(chain, trusted, nowMs)) throw wrong('it is not of a CA that we trust');
  return certificate;
}
