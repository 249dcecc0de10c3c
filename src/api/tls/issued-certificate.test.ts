/** A volumedriver's certificate from the issuer: obtained, kept, renewed, and waited for. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  controller,
  driverName,
  issueTo,
  newAuthority,
  sourceOf,
  volumedriver,
  type TestAuthority,
} from '../../../test/support/certificates.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { recordingLogger } from '../../../test/support/recording-logger.ts';
import { systemClock } from '../../base/clock.ts';
import { silentLogger } from '../../base/logger.ts';
import { systemRandom } from '../../base/random.ts';
import type { TcpEndpoint } from '../endpoint.ts';
import type { ListeningServer } from '../grpc-server.ts';
import { startIssuerServer, type TokenVerdict } from '../issuer-server.ts';
import { openIssuedCertificate } from './issued-certificate.ts';
import { keep } from './kept-certificate.ts';
import type { OwnCertificate } from './tls-source.ts';
import { publicKeyOfCsr } from './x509.ts';

const identity = { kind: 'volumedriver', driverName, nodeId: 'n1' } as const;
let directory: string;
let ca: TestAuthority;
let issuer: Issuer | undefined;
let opened: OwnCertificate | undefined;
let log: ReturnType<typeof recordingLogger>;

/** An issuer whose CA and answers the test changes. */
class Issuer {
  authority = ca;
  lifetimeMs = 3600_000;
  nodeId = 'n1';
  token = 'token';
  asked = 0;
  endpoint: TcpEndpoint = { kind: 'tcp', host: '127.0.0.1', port: 0 };
  #server: ListeningServer | undefined;

  async start(): Promise<void> {
    const source = sourceOf(this.authority.certificatePem, issueTo(this.authority, controller));
    this.#server = await startIssuerServer({
      endpoint: this.endpoint,
      driverName,
      logger: silentLogger,
      tls: Object.assign(source, {
        issue: (named: Parameters<TestAuthority['authority']['issue']>[0], csr: Uint8Array) =>
          this.authority.authority.issue(named, publicKeyOfCsr(csr), {
            nowMs: Date.now(),
            lifetimeMs: this.lifetimeMs,
          }),
      }),
      review: (token) => {
        this.asked += 1;
        const verdict: TokenVerdict =
          token === this.token
            ? { kind: 'accepted', nodeId: this.nodeId }
            : { kind: 'refused', reason: 'this pod is no volumedriver' };
        return Promise.resolve(verdict);
      },
    });
    this.endpoint = this.#server.endpoint as TcpEndpoint;
  }

  async stop(): Promise<void> {
    await this.#server?.close(100);
    this.#server = undefined;
  }
}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'issued-certificate-'));
  log = recordingLogger();
  ca = newAuthority();
  issuer = new Issuer();
  await writeFile(join(directory, 'ca.crt'), ca.certificatePem);
  await writeFile(join(directory, 'token'), 'token\n');
});

afterEach(async () => {
  await opened?.close();
  opened = undefined;
  await issuer?.stop();
  await rm(directory, { recursive: true, force: true });
});

function theIssuer(): Issuer {
  if (issuer === undefined) throw new Error('made before each test');
  return issuer;
}

async function open(): Promise<OwnCertificate> {
  opened = await openIssuedCertificate({
    ...{ identity, clock: systemClock, random: systemRandom, logger: log.logger },
    directory: join(directory, 'tls'),
    trustFile: join(directory, 'ca.crt'),
    tokenFile: join(directory, 'token'),
    issuer: theIssuer().endpoint,
    pollMs: 20,
    retryMs: 20,
  });
  return opened;
}

async function openGood(): Promise<OwnCertificate> {
  const issued = await open();
  await eventually(() => {
    expect(issued.problem).toBeNull();
  });
  return issued;
}

function serialOf(issued: OwnCertificate): string {
  return new X509Certificate(issued.material?.own?.certificatePem ?? '').serialNumber;
}

describe('a certificate', () => {
  test('is obtained, and kept for its owner alone', async () => {
    await mkdir(join(directory, 'tls'), { mode: 0o755 });
    await theIssuer().start();
    const issued = await openGood();
    expect(theIssuer().asked).toBe(1);
    await eventually(async () => {
      expect(await readdir(join(directory, 'tls'))).toEqual(['volumedriver.pem']);
    });
    expect((await stat(join(directory, 'tls'))).mode & 0o777).toBe(0o700);
    expect((await stat(join(directory, 'tls/volumedriver.pem'))).mode & 0o777).toBe(0o600);
    expect(issued.expiresAtMs).toBeGreaterThan(Date.now() + 3500_000);
  });

  test('is used after a restart without the issuer', async () => {
    await theIssuer().start();
    const before = await openGood();
    await eventually(() => stat(join(directory, 'tls/volumedriver.pem')));
    const serial = serialOf(before);
    await before.close();
    await theIssuer().stop();
    const after = await open();
    // At once: start() has read it.
    expect(after.problem).toBeNull();
    expect(serialOf(after)).toBe(serial);
    await systemClock.sleep(100);
    expect(theIssuer().asked).toBe(1);
  });

  test.each<[string, () => { certificatePem: string; keyPem: string }]>([
    ['of another node', () => issueTo(ca, volumedriver('n2'))],
    ['of another CA', () => issueTo(newAuthority(), identity)],
    ['that has expired', () => issueTo(ca, identity, -1000)],
    [
      'with the key of another one',
      () => ({ ...issueTo(ca, identity), keyPem: issueTo(ca, identity).keyPem }),
    ],
    ['that is damaged', () => ({ certificatePem: 'x', keyPem: 'y' })],
  ])('that was kept and is one %s is replaced', async (_, make) => {
    await keep(join(directory, 'tls'), make());
    await theIssuer().start();
    const issued = await open();
    expect(log.messages).toContain('the certificate that was kept is not usable');
    await eventually(() => {
      expect(issued.problem).toBeNull();
    });
    expect(theIssuer().asked).toBe(1);
  });

  test('that cannot be kept is used all the same', async () => {
    await writeFile(join(directory, 'tls'), 'a file where the directory should be');
    await theIssuer().start();
    await openGood();
    await eventually(() => {
      expect(log.messages.join()).toContain('could not be kept');
    });
  });

  test('is renewed in the middle of its life, with a new key and the token of that time', async () => {
    theIssuer().lifetimeMs = 2000;
    await theIssuer().start();
    const issued = await openGood();
    const serial = serialOf(issued);
    const key = issued.material?.own?.keyPem;
    theIssuer().token = 'next token';
    await writeFile(join(directory, 'token'), 'next token');
    let worst: string | null = null;
    await eventually(() => {
      worst ??= issued.problem;
      expect(serialOf(issued)).not.toBe(serial);
    });
    expect(worst).toBeNull();
    expect(issued.material?.own?.keyPem).not.toBe(key);
    await eventually(async () => {
      const kept = await readFile(join(directory, 'tls/volumedriver.pem'), 'utf8');
      expect(kept).toContain(issued.material?.own?.keyPem.trim());
    });
  });

  test('however short its life is, is not asked for in a hurry', async () => {
    theIssuer().lifetimeMs = 1;
    await theIssuer().start();
    await open();
    await systemClock.sleep(1000);
    expect(theIssuer().asked).toBeGreaterThan(1);
    expect(theIssuer().asked).toBeLessThan(60);
  });
});

describe('without a certificate', () => {
  test('it says what is missing, and gets one once the issuer is there', async () => {
    await theIssuer().start();
    await theIssuer().stop();
    const issued = await open();
    await eventually(() => {
      expect(issued.problem).toMatch(/no certificate yet: call the issuer .* does not answer/);
    });
    expect(issued.material).toBeNull();
    await theIssuer().start();
    await eventually(() => {
      expect(issued.problem).toBeNull();
    });
  });

  test('it says why it was refused, and asks again', async () => {
    await writeFile(join(directory, 'token'), 'of somebody else');
    await theIssuer().start();
    const issued = await open();
    await eventually(() => {
      expect(issued.problem).toContain('this pod is no volumedriver');
    });
    await writeFile(join(directory, 'token'), 'token');
    await eventually(() => {
      expect(issued.problem).toBeNull();
    });
    expect(log.messages.join()).not.toContain('of somebody else');
  });

  test('it does not take one of another node', async () => {
    theIssuer().nodeId = 'n2';
    await theIssuer().start();
    const issued = await open();
    await eventually(() => {
      expect(issued.problem).toMatch(/it names .*\/n2 and not .*\/n1/);
    });
    expect(issued.material).toBeNull();
  });

  test.each(['token', 'ca.crt'])('it waits for a file: %s', async (file) => {
    const content = await readFile(join(directory, file));
    await rm(join(directory, file));
    await theIssuer().start();
    const issued = await open();
    await eventually(() => {
      expect(issued.problem).toContain(file);
    });
    expect(theIssuer().asked).toBe(0);
    await writeFile(join(directory, file), content);
    await eventually(() => {
      expect(issued.problem).toBeNull();
    });
  });

  test('that is valid, it says since when, and goes on asking', async () => {
    theIssuer().lifetimeMs = 1500;
    await theIssuer().start();
    const issued = await openGood();
    await theIssuer().stop();
    await eventually(() => {
      expect(issued.problem).toMatch(/the certificate expired at .*: call the issuer/);
    });
    await eventually(() => {
      expect(log.messages).toContain('no valid certificate: controllers cannot connect');
    });
    theIssuer().lifetimeMs = 3600_000;
    await theIssuer().start();
    await eventually(() => {
      expect(issued.problem).toBeNull();
    });
  });

  test('it does not keep anybody waiting who closes it', async () => {
    await theIssuer().start();
    await theIssuer().stop();
    const issued = await open();
    const startMs = performance.now();
    await issued.close();
    expect(performance.now() - startMs).toBeLessThan(5000);
  });
});

describe('the trust bundle', () => {
  test('that gets another CA is shown to connections at once', async () => {
    await theIssuer().start();
    const issued = await openGood();
    const serial = serialOf(issued);
    const both = ca.certificatePem + newAuthority().certificatePem;
    await writeFile(join(directory, 'ca.crt'), both);
    await eventually(() => {
      expect(issued.material?.trustPem).toBe(both);
    });
    expect(serialOf(issued)).toBe(serial);
  });

  test('that loses the CA of our certificate makes it ask for another one', async () => {
    await theIssuer().start();
    const issued = await openGood();
    const serial = serialOf(issued);
    const next = newAuthority({ name: 'next' });
    await theIssuer().stop();
    theIssuer().authority = next;
    await theIssuer().start();
    await writeFile(join(directory, 'ca.crt'), next.certificatePem);
    await eventually(() => {
      expect(serialOf(issued)).not.toBe(serial);
    });
    expect(issued.problem).toBeNull();
  });

  test('that is damaged leaves the one before in use', async () => {
    await theIssuer().start();
    const issued = await openGood();
    await mkdir(join(directory, 'x'));
    await writeFile(join(directory, 'ca.crt'), 'no certificate');
    await eventually(() => {
      expect(log.messages).toContain('the trust bundle is not usable');
    });
    expect(issued.problem).toBeNull();
    expect(issued.material?.trustPem).toBe(ca.certificatePem);
  });
});
