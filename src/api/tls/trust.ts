/** What certificates in PEM say, and whether one of them is to be trusted now. */
import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto';
import { VolumeError } from '../../volumes/errors.ts';

/** More than any chain or bundle of ours. */
const pemBytesMax = 1024 * 1024;
const chainLengthMax = 8;

/** All certificates of a text, at least one. INVALID_ARGUMENT names `what` when that fails. */
export function parseCertificates(what: string, pem: string): X509Certificate[] {
  if (pem.length > pemBytesMax) throw bad(what, `it has more than ${pemBytesMax} bytes`);
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw bad(what, 'there is no certificate in PEM in it');
  return blocks.map((block) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw bad(what, 'a certificate in it can not be read', error);
    }
  });
}

/** INVALID_ARGUMENT names `what` when there is none, or one with a passphrase. */
export function parsePrivateKey(what: string, pem: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    throw bad(what, 'there is no private key in PEM (without a passphrase) in it', error);
  }
}

export function bad(what: string, why: string, cause?: unknown): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `${what}: ${why}`, { cause });
}

/**
 * Whether the first certificate leads to a root that is trusted, over any of the others or of the trusted ones, all of
 * them valid now. A trusted one that is no root is not enough: OpenSSL's servers cannot be told otherwise in Node.
 */
export function isTrusted(
  chain: readonly X509Certificate[],
  trusted: readonly X509Certificate[],
  nowMs: number,
): boolean {
  let [current] = chain;
  const parents = [...trusted, ...chain.slice(1)].filter((parent) => isValidAt(parent, nowMs));
  for (let length = 0; current !== undefined && length < chainLengthMax; length++) {
    const child: X509Certificate = current;
    if (!isValidAt(child, nowMs)) return false;
    const parent = parents.find((candidate) => isSignedBy(child, candidate));
    if (parent !== undefined && isRoot(parent)) {
      return trusted.some((root) => root.fingerprint256 === parent.fingerprint256);
    }
    current = parent;
  }
  return false;
}

function isSignedBy(child: X509Certificate, parent: X509Certificate): boolean {
  return parent.ca && child.checkIssued(parent) && child.verify(parent.publicKey);
}

export function isRoot(certificate: X509Certificate): boolean {
  return certificate.checkIssued(certificate);
}

export function isValidAt(certificate: X509Certificate, nowMs: number): boolean {
  return certificate.validFromDate.getTime() <= nowMs && nowMs <= expiryMs(certificate);
}

export function expiryMs(certificate: X509Certificate): number {
  return certificate.validToDate.getTime();
}

/** Without those of a second. */
export function formatTime(timeMs: number): string {
  return new Date(timeMs).toISOString().replace(/\.\d+Z$/, 'Z');
}
