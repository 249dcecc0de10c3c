/** The controller's CA in a directory, while its files change. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  driverName,
  hour,
  newAuthority,
  volumedriver,
  type TestAuthority,
  type TestAuthorityOptions,
} from '../../../test/support/certificates.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { recordingLogger } from '../../../test/support/recording-logger.ts';
import { systemClock } from '../../base/clock.ts';
import {
  openControllerTls,
  type ControllerTls,
  type ControllerTlsOptions,
} from './controller-tls.ts';
import { isTrusted, parseCertificates } from './trust.ts';
import { createCsr, newKeyPair } from './x509.ts';

let directory: string;
let opened: ControllerTls | undefined;
let log: ReturnType<typeof recordingLogger>;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'controller-tls-'));
  log = recordingLogger();
});

afterEach(async () => {
  await opened?.close();
  opened = undefined;
  await rm(directory, { recursive: true, force: true });
});

async function put(ca: { certificatePem: string; keyPem: string }, bundle?: string): Promise<void> {
  await writeFile(join(directory, 'tls.crt'), ca.certificatePem);
  await writeFile(join(directory, 'tls.key'), ca.keyPem);
  if (bundle !== undefined) await writeFile(join(directory, 'ca-bundle.crt'), bundle);
}

async function open(changes: Partial<ControllerTlsOptions> = {}): Promise<ControllerTls> {
  const { logger } = log;
  opened = await openControllerTls({
    ...{ directory, driverName, logger, clock: systemClock, pollMs: 20 },
    ...changes,
  });
  return opened;
}

function ownOf({ material }: ControllerTls): X509Certificate {
  return new X509Certificate(material?.own?.certificatePem ?? '');
}

function isOf(tls: ControllerTls, ca: TestAuthority): boolean {
  return ownOf(tls).verify(ca.certificate.publicKey);
}

describe('a controller', () => {
  test('signs for itself and for volumedrivers', async () => {
    const ca = newAuthority();
    await put(ca);
    const tls = await open();
    expect(ownOf(tls).subjectAltName).toBe('URI:volumedriver://csi.example/controller');
    const issued = tls.issue(volumedriver('n1'), createCsr(newKeyPair()));
    expect(isTrusted(parseCertificates('it', issued), [ca.certificate], Date.now())).toBe(true);
    expect(() => tls.issue(volumedriver('n1'), new Uint8Array(9))).toThrow('certificate request');
  });

  test('renews its certificate in the middle of its life', async () => {
    await put(newAuthority());
    const tls = await open({ lifetimeMs: 2000 });
    const seen = new Set([ownOf(tls).serialNumber]);
    const until = Date.now() + 3500;
    let changes = 0;
    const ignore = tls.onChange(() => (changes += 1));
    while (Date.now() < until) {
      seen.add(ownOf(tls).serialNumber);
      expect(ownOf(tls).validToDate.getTime()).toBeGreaterThan(Date.now());
      await systemClock.sleep(20);
    }
    expect(seen.size).toBeGreaterThanOrEqual(3);
    expect(changes).toBe(seen.size - 1);
    ignore();
  });

  test('takes a new CA, and trusts those of its bundle', async () => {
    const [old, next] = [newAuthority({ name: 'old' }), newAuthority({ name: 'next' })];
    await put(old);
    const tls = await open();
    await put(old, next.certificatePem);
    await eventually(() => {
      expect(tls.material?.trustPem).toContain(next.certificatePem);
    });
    expect(isOf(tls, old)).toBe(true);
    await put(next, old.certificatePem);
    await eventually(() => {
      expect(isOf(tls, next)).toBe(true);
    });
    expect(tls.material?.trustPem).toContain(old.certificatePem);
    await rm(join(directory, 'ca-bundle.crt'));
    await eventually(() => {
      expect(tls.material?.trustPem).not.toContain(old.certificatePem);
    });
    expect(isOf(tls, next)).toBe(true);
  });

  test('stays with what it has while files do not fit together', async () => {
    const [old, next] = [newAuthority(), newAuthority()];
    await put(old);
    const tls = await open();
    await put({ ...old, certificatePem: next.certificatePem });
    await eventually(() => {
      expect(log.messages).toContain('the CA is not usable: going on as before');
    });
    expect(isOf(tls, old)).toBe(true);
    await rm(join(directory, 'tls.key'));
    await systemClock.sleep(100);
    tls.issue(volumedriver('n1'), createCsr(newKeyPair()));
    const told = log.messages.filter((message) => message.includes('not usable')).length;
    expect(told).toBeLessThanOrEqual(2);
    await put(next);
    await eventually(() => {
      expect(isOf(tls, next)).toBe(true);
    });
  });

  test('warns of a CA that ends soon, once', async () => {
    await put(newAuthority({ endMs: 20 * 24 * hour }));
    await open({ lifetimeMs: 1000 });
    await systemClock.sleep(1200);
    const warning = 'the CA expires soon: replace it';
    expect(log.messages.filter((message) => message === warning)).toHaveLength(1);
  });

  const root = newAuthority({ name: 'root' });
  test.each<[string, TestAuthorityOptions, string | undefined, RegExp]>([
    ['has expired', { endMs: -1000 }, undefined, /tls.crt: it is valid from .* put a valid CA/],
    ['has a parent that is not in the bundle', { parent: root }, '', /not of a CA that we trust/],
    ['has a bundle of another', { parent: root }, newAuthority().certificatePem, /not of a CA/],
  ])('does not start with a CA that %s', async (_, options, bundle, says) => {
    const ca = newAuthority(options);
    await put({ ...ca, certificatePem: ca.certificate.toString() }, bundle);
    await expect(open()).rejects.toThrow(says);
  });

  test('starts with a CA below another one when that is in the bundle', async () => {
    const ca = newAuthority({ parent: root });
    await put({ ...ca, certificatePem: ca.certificate.toString() }, root.certificatePem);
    expect(isOf(await open(), ca)).toBe(true);
  });

  test('does not start without a CA', async () => {
    await expect(open()).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringMatching(/^read the CA: .*tls.crt/),
    });
  });
});
