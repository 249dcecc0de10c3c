/** A volumedriver's certificate in files that somebody else keeps current. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  issueTo,
  newAuthority,
  volumedriver,
  type OwnPem,
} from '../../../test/support/certificates.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { recordingLogger } from '../../../test/support/recording-logger.ts';
import { systemClock } from '../../base/clock.ts';
import { openCertificateFiles } from './certificate-files.ts';
import type { OwnCertificate } from './tls-source.ts';

const identity = volumedriver('n1');
const ca = newAuthority();
let directory: string;
let opened: OwnCertificate | undefined;
let log: ReturnType<typeof recordingLogger>;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'certificate-files-'));
  log = recordingLogger();
  await writeFile(join(directory, 'ca.crt'), ca.certificatePem);
});

afterEach(async () => {
  await opened?.close();
  opened = undefined;
  await rm(directory, { recursive: true, force: true });
});

async function put({ certificatePem, keyPem }: Partial<OwnPem>): Promise<void> {
  if (certificatePem !== undefined) await writeFile(join(directory, 'tls.crt'), certificatePem);
  if (keyPem !== undefined) await writeFile(join(directory, 'tls.key'), keyPem);
}

async function open(): Promise<OwnCertificate> {
  const clock = systemClock;
  const { logger } = log;
  opened = await openCertificateFiles({
    ...{ identity, clock, logger, pollMs: 20 },
    trustFile: join(directory, 'ca.crt'),
    certificateFile: join(directory, 'tls.crt'),
    keyFile: join(directory, 'tls.key'),
  });
  return opened;
}

function serialOf({ certificatePem }: { certificatePem: string }): string {
  return new X509Certificate(certificatePem).serialNumber;
}

describe('certificates in files', () => {
  test('are used from the start', async () => {
    const own = issueTo(ca, identity);
    await put(own);
    const files = await open();
    expect(files.material).toEqual({ trustPem: ca.certificatePem, own });
    expect(files.problem).toBeNull();
    expect(files.expiresAtMs).toBe(new X509Certificate(own.certificatePem).validToDate.getTime());
  });

  test('are waited for', async () => {
    const files = await open();
    expect(files.material).toBeNull();
    expect(files.problem).toContain('tls.crt');
    let changes = 0;
    files.onChange(() => (changes += 1));
    await put(issueTo(ca, identity));
    await eventually(() => {
      expect(files.problem).toBeNull();
    });
    expect(changes).toBe(1);
  });

  test('change only when certificate and key fit', async () => {
    const [old, next] = [issueTo(ca, identity), issueTo(ca, identity)];
    await put(old);
    const files = await open();
    await put({ certificatePem: next.certificatePem });
    await eventually(() => {
      expect(log.messages).toContain('certificate files are not usable');
    });
    expect(files.problem).toBeNull();
    expect(serialOf(files.material?.own ?? old)).toBe(serialOf(old));
    await put({ keyPem: next.keyPem });
    await eventually(() => {
      expect(serialOf(files.material?.own ?? old)).toBe(serialOf(next));
    });
  });

  test('of another node are refused, and those of an unknown CA', async () => {
    await put(issueTo(ca, volumedriver('n2')));
    const files = await open();
    expect(files.problem).toMatch(/it names .*\/n2 and not .*\/n1/);
    await put(issueTo(newAuthority(), identity));
    await eventually(() => {
      expect(files.problem).toContain('it is not of a CA that we trust');
    });
    await put(issueTo(ca, identity));
    await eventually(() => {
      expect(files.problem).toBeNull();
    });
  });

  test('that expire stay in use, and are told of', async () => {
    const own = issueTo(ca, identity, 1500);
    await put(own);
    const files = await open();
    expect(files.problem).toBeNull();
    await eventually(() => {
      expect(files.problem).toMatch(/tls.crt: it expired at 2/);
      expect(log.messages).toContain('no valid certificate');
    });
    expect(files.material?.own).toEqual(own);
    await put(issueTo(ca, identity));
    await eventually(() => {
      expect(files.problem).toBeNull();
    });
    expect(log.messages.filter((message) => message === 'no valid certificate')).toHaveLength(1);
  });
});
