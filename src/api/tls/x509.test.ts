import { describe, expect, test } from '@jest/globals';
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  X509Certificate,
} from 'node:crypto';
import fc from 'fast-check';
import {
  controller,
  forge,
  hour,
  issueTo,
  newAuthority,
  rsaKeys,
  volumedriver,
} from '../../../test/support/certificates.ts';
import type { VolumeError } from '../../volumes/errors.ts';
import { Authority, clockSkewMs, renewalMs } from './authority.ts';
import { checkOwn } from './own-certificate.ts';
import { isTrusted, parseCertificates } from './trust.ts';
import { createCsr, newKeyPair, publicKeyOfCsr } from './x509.ts';

const now = (): number => Date.now();
const first = (pem: string): X509Certificate => new X509Certificate(pem);

describe('a certificate request', () => {
  test('brings its key', () => {
    const keys = newKeyPair();
    expect(publicKeyOfCsr(createCsr(keys)).equals(keys.publicKey)).toBe(true);
  });

  test('of an RSA key is refused, as is one of another curve', () => {
    for (const keys of [rsaKeys(), generateKeyPairSync('ec', { namedCurve: 'P-384' })]) {
      expect(() => publicKeyOfCsr(createCsr(keys))).toThrow('it must be of an ECDSA P-256 key');
    }
  });

  test('for the key of somebody else is refused', () => {
    const { privateKey } = newKeyPair();
    const { publicKey } = newKeyPair();
    expect(() => publicKeyOfCsr(createCsr({ publicKey, privateKey }))).toThrow(
      'its signature is not by the key that it names',
    );
  });

  test('that was cut, changed or made up is refused or still says the same', () => {
    const keys = newKeyPair();
    const good = createCsr(keys);
    const cut = fc.nat({ max: good.length - 1 }).map((length) => good.slice(0, length));
    const changed = fc
      .tuple(fc.nat({ max: good.length - 1 }), fc.integer({ min: 1, max: 255 }))
      .map(([at, bits]) => good.map((byte, index) => (index === at ? byte ^ bits : byte)));
    const noise = fc.uint8Array({ maxLength: 300 });
    fc.assert(
      fc.property(fc.oneof(cut, changed, noise), (der) => {
        try {
          expect(publicKeyOfCsr(der).equals(keys.publicKey)).toBe(true);
        } catch (error) {
          expect((error as VolumeError).code).toBe('INVALID_ARGUMENT');
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('an authority', () => {
  const ca = newAuthority();

  test.each([
    [controller, 'URI:volumedriver://csi.example/controller'],
    [volumedriver('n 1,'), 'URI:volumedriver://csi.example/volumedriver/n%201%2C'],
  ])('names who it is asked to name, for a day', (identity, name) => {
    const { publicKey } = newKeyPair();
    const nowMs = Math.floor(now() / 1000) * 1000;
    const certificate = first(ca.authority.issue(identity, publicKey, { nowMs }));
    expect(certificate.subjectAltName).toBe(name);
    expect(certificate.ca).toBe(false);
    expect(certificate.publicKey.equals(publicKey)).toBe(true);
    expect(certificate.verify(ca.certificate.publicKey)).toBe(true);
    expect(certificate.checkIssued(ca.certificate)).toBe(true);
    expect(certificate.validFromDate.getTime()).toBe(nowMs - clockSkewMs);
    expect(certificate.validToDate.getTime()).toBe(nowMs + 24 * hour);
    expect(renewalMs(certificate)).toBe(nowMs + 12 * hour);
    expect(certificate.keyUsage).toEqual(
      identity.kind === 'controller'
        ? ['1.3.6.1.5.5.7.3.2', '1.3.6.1.5.5.7.3.1']
        : ['1.3.6.1.5.5.7.3.1'],
    );
  });

  test('gives each certificate a number of its own', () => {
    const numbers = [1, 2, 3].map(() => first(issueTo(ca, controller).certificatePem).serialNumber);
    expect(new Set(numbers).size).toBe(3);
    for (const number of numbers) expect(number).toMatch(/^[4-7][0-9A-F]{31}$/);
  });

  test('signs nothing that outlives it', () => {
    const short = newAuthority({ endMs: hour });
    const certificate = first(issueTo(short, controller, 24 * hour).certificatePem);
    expect(certificate.validToDate).toEqual(short.certificate.validToDate);
  });

  test.each<[string, number, number, RegExp]>([
    ['that has expired', -2 * hour, -hour, /valid from .* to .*Z and now it is .*put a valid CA/],
    ['of tomorrow', hour, 2 * hour, /now it is/],
  ])('%s signs nothing and says why', (_, startMs, endMs, says) => {
    const ended = newAuthority({ startMs, endMs });
    expect(() => issueTo(ended, controller)).toThrow(says);
  });

  test.each<[string, (name: string) => Authority, RegExp]>([
    [
      'the key of another one',
      (name) =>
        new Authority({ name, certificatePem: ca.certificatePem, keyPem: newAuthority().keyPem }),
      /key of CA x: it is not the certificate's key/,
    ],
    [
      'a certificate that is no CA',
      (name) => new Authority({ name, ...issueTo(ca, controller) }),
      /CA certificate x: it is not the certificate of a CA/,
    ],
    [
      'no certificate',
      (name) => new Authority({ name, certificatePem: '', keyPem: ca.keyPem }),
      /CA certificate x: there is no certificate in PEM/,
    ],
    [
      'a damaged certificate',
      (name) =>
        new Authority({
          name,
          certificatePem: ca.certificatePem.replace(/\n.{64}\n/, '\n'),
          keyPem: ca.keyPem,
        }),
      /CA certificate x: a certificate in it can not be read/,
    ],
    [
      'no key',
      (name) => new Authority({ name, certificatePem: ca.certificatePem, keyPem: 'x' }),
      /key of CA x: there is no private key/,
    ],
  ])('is not made of %s', (_, make, says) => {
    expect(() => make('x')).toThrow(says);
  });

  test('takes keys in every form that is usual, as those of Helm', () => {
    const keys = rsaKeys();
    const { certificatePem } = newAuthority({ keys });
    for (const type of ['pkcs1', 'pkcs8'] as const) {
      const keyPem = keys.privateKey.export({ format: 'pem', type }).toString();
      new Authority({ name: 'x', certificatePem, keyPem });
    }
    const elliptic = newKeyPair();
    const keyPem = elliptic.privateKey.export({ format: 'pem', type: 'sec1' }).toString();
    const ca = newAuthority({ keys: elliptic });
    new Authority({ name: 'x', certificatePem: ca.certificatePem, keyPem });
  });
});

describe('trust', () => {
  const root = newAuthority({ name: 'root' });
  const middle = newAuthority({ name: 'middle', parent: root });
  const leaf = parseCertificates('leaf', issueTo(middle, controller).certificatePem);
  const [alone] = leaf;

  test.each<[string, readonly X509Certificate[], readonly X509Certificate[], boolean]>([
    ['over a chain', leaf, [root.certificate], true],
    [
      'over a chain that the bundle completes',
      leaf.slice(0, 1),
      [middle.certificate, root.certificate],
      true,
    ],
    ['over a chain with a gap', leaf.slice(0, 1), [root.certificate], false],
    ['without the root', leaf, [middle.certificate], false],
    ['in another root', leaf, [newAuthority({ name: 'root' }).certificate], false],
    ['in nobody', leaf, [], false],
    ['in nothing', [], [root.certificate], false],
    ['in an old and a new root', leaf, [newAuthority().certificate, root.certificate], true],
  ])('%s: %#', (_, chain, trusted, expected) => {
    expect(isTrusted(chain, trusted, now())).toBe(expected);
  });

  test('ends with any link', () => {
    expect(isTrusted(leaf, [root.certificate], now() + 2 * hour)).toBe(false);
    const old = newAuthority({ name: 'old', endMs: -1000 });
    const chain = parseCertificates('x', forge(old, {}).certificatePem);
    expect(isTrusted(chain, [old.certificate], now())).toBe(false);
  });

  test('is not given to a certificate by one that is no CA', () => {
    const fake = forge(root, {});
    const fakeCa = {
      ...newAuthority(),
      certificate: first(fake.certificatePem),
      key: createPrivateKey(fake.keyPem),
    };
    const child = first(forge(fakeCa, {}).certificatePem);
    expect(isTrusted([child, fakeCa.certificate], [root.certificate], now())).toBe(false);
  });

  test('makes a certificate ours only when all fits', () => {
    const identity = volumedriver('n1');
    const trusted = [root.certificate];
    const check = (own: { certificatePem: string; keyPem: string }): X509Certificate =>
      checkOwn(own, { what: 'it', identity, trusted, nowMs: now() });
    const good = issueTo(middle, identity);
    expect(check(good).serialNumber).toBe(first(good.certificatePem).serialNumber);
    const other = issueTo(middle, identity);
    expect(() => check({ ...good, keyPem: other.keyPem })).toThrow('the key is that of another');
    expect(() => check(issueTo(middle, volumedriver('n2')))).toThrow(/it names .*n2 and not .*n1/);
    expect(() => check(forge(root, {}))).toThrow('it names no identity of ours');
    expect(() => check(issueTo(newAuthority(), identity))).toThrow('not of a CA that we trust');
    expect(() => check(issueTo(middle, identity, -1000))).toThrow(/valid from .* now it is/);
    expect(alone?.subjectAltName).toContain('controller');
  });
});

test('certificates are read by others, too', () => {
  // Node has OpenSSL read what we write; the key within must be the same one.
  const ca = newAuthority({ keys: rsaKeys() });
  const own = issueTo(ca, volumedriver('n1'));
  const certificate = first(own.certificatePem);
  expect(createPublicKey(own.keyPem).equals(certificate.publicKey)).toBe(true);
  expect(certificate.issuer).toBe('CN=test CA');
  expect(certificate.subject).toBe('CN=volumedriver');
});
