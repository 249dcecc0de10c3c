/** Authorities and certificates for tests, good and bad ones, made by the product's own encoder. */
import { generateKeyPairSync, type KeyObject, type X509Certificate } from 'node:crypto';
import { Authority } from '../../src/api/tls/authority.ts';
import type { TlsIdentity } from '../../src/api/tls/identity.ts';
import { MaterialCell } from '../../src/api/tls/tls-source.ts';
import {
  createCertificate,
  newKeyPair,
  type CertificateFields,
  type KeyPair,
} from '../../src/api/tls/x509.ts';

export const driverName = 'csi.example';
export const controller: TlsIdentity = { kind: 'controller', driverName };
export const hour = 3600 * 1000;

export function volumedriver(nodeId: string): TlsIdentity {
  return { kind: 'volumedriver', driverName, nodeId };
}

export interface TestAuthority {
  certificate: X509Certificate;
  key: KeyObject;
  certificatePem: string;
  keyPem: string;
  authority: Authority;
}

export interface TestAuthorityOptions {
  name?: string;
  keys?: KeyPair;
  /** From now. */
  startMs?: number;
  endMs?: number;
  parent?: TestAuthority;
}

export function newAuthority({
  name = 'test CA',
  keys = newKeyPair(),
  startMs = -hour,
  endMs = 240 * hour,
  parent,
}: TestAuthorityOptions = {}): TestAuthority {
  const certificate = createCertificate(
    {
      subject: name,
      publicKey: keys.publicKey,
      notBeforeMs: Date.now() + startMs,
      notAfterMs: Date.now() + endMs,
      authority: true,
    },
    parent ?? { key: keys.privateKey },
  );
  const certificatePem = certificate.toString() + (parent?.certificatePem ?? '');
  const keyPem = pemOf(keys.privateKey);
  const authority = new Authority({ name, certificatePem, keyPem });
  return { certificate, key: keys.privateKey, certificatePem, keyPem, authority };
}

/** As Helm's genCA makes them. */
export function rsaKeys(): KeyPair {
  return generateKeyPairSync('rsa', { modulusLength: 2048 });
}

export interface OwnPem {
  certificatePem: string;
  keyPem: string;
}

export function issueTo(
  { authority }: TestAuthority,
  identity: TlsIdentity,
  lifetimeMs = hour,
): OwnPem {
  const keys = newKeyPair();
  const certificatePem = authority.issue(identity, keys.publicKey, {
    nowMs: Date.now(),
    lifetimeMs,
  });
  return { certificatePem, keyPem: pemOf(keys.privateKey) };
}

/** One that no authority of ours would give. */
export function forge(issuer: TestAuthority, fields: Partial<CertificateFields>): OwnPem {
  const keys = newKeyPair();
  const certificate = createCertificate(
    {
      subject: 'forged',
      publicKey: keys.publicKey,
      notBeforeMs: Date.now() - hour,
      notAfterMs: Date.now() + hour,
      ...fields,
    },
    issuer,
  );
  return { certificatePem: certificate.toString(), keyPem: pemOf(keys.privateKey) };
}

export function sourceOf(trustPem: string, own: OwnPem | null): MaterialCell {
  const source = new MaterialCell();
  source.set({ trustPem, own });
  return source;
}

function pemOf(key: KeyObject): string {
  return key.export({ format: 'pem', type: 'pkcs8' }).toString();
}
