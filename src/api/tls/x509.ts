/**
 * Certificates and certificate requests as bytes: RFC 5280 and RFC 2986. Encoding is ASN.1 schemas of a library, keys and
 * signatures are OpenSSL's. Nothing here decides who may have which certificate.
 */
import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  randomBytes,
  sign,
  verify,
  X509Certificate,
  type KeyObject,
} from 'node:crypto';
import { Attributes, CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import { AsnConvert, OctetString } from '@peculiar/asn1-schema';
import {
  AlgorithmIdentifier,
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  Extension,
  Extensions,
  GeneralName,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  id_kp_clientAuth,
  id_kp_serverAuth,
  KeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  SubjectPublicKeyInfo,
  TBSCertificate,
  Validity,
  Version,
} from '@peculiar/asn1-x509';
import { assert } from '../../base/assert.ts';
import { VolumeError } from '../../volumes/errors.ts';

const commonName = '2.5.4.3';
const ecdsaWithSha256 = '1.2.840.10045.4.3.2';
const sha256WithRsa = '1.2.840.113549.1.1.11';
/** ASN.1 NULL, which RFC 4055 wants as the parameters of RSA. */
const asn1Null = new Uint8Array([5, 0]).buffer;

/** The curve of our own keys, as OpenSSL and as we name it. */
const curve = { openssl: 'prime256v1', name: 'P-256' } as const;
const serialBytes = 16;

export interface KeyPair {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

export function newKeyPair(): KeyPair {
  return generateKeyPairSync('ec', { namedCurve: curve.name });
}

export interface CertificateFields {
  /** The common name, for people; identities are in `uri`. */
  readonly subject: string;
  readonly publicKey: KeyObject;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** The certificate of a CA signs certificates, all others are for connections. */
  readonly authority?: boolean;
  readonly uri?: string;
  readonly usages?: readonly ('client' | 'server')[];
}

/** Who signs: with a certificate, or, for a CA's own, without. */
export interface Signer {
  readonly key: KeyObject;
  readonly certificate?: X509Certificate;
}

export function createCertificate(fields: CertificateFields, signer: Signer): X509Certificate {
  const algorithm = algorithmOf(signer.key);
  const subject = nameOf(fields.subject);
  const parent = signer.certificate === undefined ? null : parsedCertificate(signer.certificate);
  const tbsCertificate = new TBSCertificate({
    version: Version.v3,
    serialNumber: newSerialNumber(),
    signature: algorithm,
    issuer: parent?.tbsCertificate.subject ?? subject,
    validity: new Validity({
      notBefore: wholeSecond(fields.notBeforeMs),
      notAfter: wholeSecond(fields.notAfterMs),
    }),
    subject,
    subjectPublicKeyInfo: AsnConvert.parse(spkiOf(fields.publicKey), SubjectPublicKeyInfo),
    extensions: extensionsOf(fields, parent),
  });
  const signed = AsnConvert.serialize(tbsCertificate);
  const signatureValue = signBytes(signed, signer.key);
  const certificate = new Certificate({
    tbsCertificate,
    signatureAlgorithm: algorithm,
    signatureValue,
  });
  return new X509Certificate(Buffer.from(AsnConvert.serialize(certificate)));
}

/** RFC 5280, 4.1.2.5: no fractions. */
function wholeSecond(timeMs: number): Date {
  return new Date(Math.floor(timeMs / 1000) * 1000);
}

function extensionsOf(fields: CertificateFields, parent: Certificate | null): Extensions {
  const { authority = false, uri, usages = [] } = fields;
  const extensions = [
    extension(id_ce_basicConstraints, new BasicConstraints({ cA: authority }), true),
    extension(
      id_ce_keyUsage,
      new KeyUsage(
        authority
          ? KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign
          : KeyUsageFlags.digitalSignature,
      ),
      true,
    ),
    extension(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyIdOf(fields.publicKey))),
  ];
  const parentKeyId = parent?.tbsCertificate.extensions?.find(
    ({ extnID }) => extnID === id_ce_subjectKeyIdentifier,
  )?.extnValue;
  if (parentKeyId !== undefined) {
    const { buffer } = AsnConvert.parse(parentKeyId, SubjectKeyIdentifier);
    const keyIdentifier = new KeyIdentifier(buffer);
    extensions.push(
      extension(id_ce_authorityKeyIdentifier, new AuthorityKeyIdentifier({ keyIdentifier })),
    );
  }
  if (usages.length > 0) {
    const purposes = { client: id_kp_clientAuth, server: id_kp_serverAuth };
    const purpose = new ExtendedKeyUsage(usages.map((usage) => purposes[usage]));
    extensions.push(extension(id_ce_extKeyUsage, purpose));
  }
  if (uri !== undefined) {
    const name = new GeneralName({ uniformResourceIdentifier: uri });
    extensions.push(extension(id_ce_subjectAltName, new SubjectAlternativeName([name])));
  }
  return new Extensions(extensions);
}

function extension(extnID: string, value: object, critical = false): Extension {
  const extnValue = new OctetString(AsnConvert.serialize(value));
  return new Extension({ extnID, critical, extnValue });
}

function nameOf(text: string): Name {
  const value = new AttributeValue({ utf8String: text });
  return new Name([
    new RelativeDistinguishedName([new AttributeTypeAndValue({ type: commonName, value })]),
  ]);
}

/** A request for a certificate of this key. It asks for no name: whoever signs knows better. */
export function createCsr({ publicKey, privateKey }: KeyPair): Uint8Array {
  const certificationRequestInfo = new CertificationRequestInfo({
    version: 0,
    subject: new Name(),
    subjectPKInfo: AsnConvert.parse(spkiOf(publicKey), SubjectPublicKeyInfo),
    attributes: new Attributes(),
  });
  const request = new CertificationRequest({
    certificationRequestInfo,
    signatureAlgorithm: algorithmOf(privateKey),
    signature: signBytes(AsnConvert.serialize(certificationRequestInfo), privateKey),
  });
  return new Uint8Array(AsnConvert.serialize(request));
}

/**
 * The key that a certificate is asked for, once it has signed the request. Nothing else of the request counts.
 * INVALID_ARGUMENT for anything but a well signed request of an ECDSA P-256 key.
 */
export function publicKeyOfCsr(der: Uint8Array): KeyObject {
  let isSigned: boolean;
  let publicKey: KeyObject;
  try {
    const request = AsnConvert.parse(der, CertificationRequest);
    const { certificationRequestInfo, certificationRequestInfoRaw, signatureAlgorithm } = request;
    publicKey = createPublicKey({
      key: Buffer.from(AsnConvert.serialize(certificationRequestInfo.subjectPKInfo)),
      format: 'der',
      type: 'spki',
    });
    if (!isOurKind(publicKey) || signatureAlgorithm.algorithm !== ecdsaWithSha256) {
      throw badCsr(`it must be of an ECDSA ${curve.name} key, signed with SHA-256`);
    }
    const signed = certificationRequestInfoRaw ?? AsnConvert.serialize(certificationRequestInfo);
    isSigned = verify('sha256', Buffer.from(signed), publicKey, Buffer.from(request.signature));
  } catch (error) {
    if (error instanceof VolumeError) throw error;
    throw badCsr('it is not a PKCS#10 request in DER', error);
  }
  if (!isSigned) throw badCsr('its signature is not by the key that it names');
  return publicKey;
}

function badCsr(why: string, cause?: unknown): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `certificate request: ${why}`, { cause });
}

function isOurKind(key: KeyObject): boolean {
  return key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === curve.openssl;
}

/** Whether certificates can be signed with it: RSA, as Helm makes it, or ECDSA. */
export function isSigningKey(key: KeyObject): boolean {
  return key.asymmetricKeyType === 'rsa' || key.asymmetricKeyType === 'ec';
}

function algorithmOf(key: KeyObject): AlgorithmIdentifier {
  assert(isSigningKey(key), 'keys of other kinds are refused where they come in');
  return key.asymmetricKeyType === 'rsa'
    ? new AlgorithmIdentifier({ algorithm: sha256WithRsa, parameters: asn1Null })
    : new AlgorithmIdentifier({ algorithm: ecdsaWithSha256 });
}

function signBytes(bytes: ArrayBuffer, key: KeyObject): ArrayBuffer {
  return bufferOf(sign('sha256', Buffer.from(bytes), key));
}

/** 127 bits of chance: positive, and never zero for practical purposes. */
function newSerialNumber(): ArrayBuffer {
  const serial = randomBytes(serialBytes);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  return bufferOf(serial);
}

function keyIdOf(publicKey: KeyObject): ArrayBuffer {
  const { subjectPublicKey } = AsnConvert.parse(spkiOf(publicKey), SubjectPublicKeyInfo);
  // RFC 5280, 4.2.1.2, method (1); an identifier, so SHA-1 does no harm.
  return bufferOf(createHash('sha1').update(Buffer.from(subjectPublicKey)).digest());
}

function spkiOf(publicKey: KeyObject): Buffer {
  return publicKey.export({ format: 'der', type: 'spki' });
}

function parsedCertificate(certificate: X509Certificate): Certificate {
  return AsnConvert.parse(certificate.raw, Certificate);
}

function bufferOf(bytes: Buffer): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}
