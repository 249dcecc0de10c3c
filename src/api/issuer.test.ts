/** The issuer: what it asks of a caller, what it gives, and what it does when it cannot know. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { createPublicKey, X509Certificate } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  controller,
  driverName,
  issueTo,
  newAuthority,
  sourceOf,
  type TestAuthority,
} from '../../test/support/certificates.ts';
import { systemClock } from '../base/clock.ts';
import { silentLogger, type LogFields, type Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { TcpEndpoint } from './endpoint.ts';
import { IssuerService } from './generated/issuer.ts';
import { VolumedriverService } from './generated/volumedriver.ts';
import { GrpcPeer } from './grpc-client.ts';
import type { ListeningServer } from './grpc-server.ts';
import { requestCertificate } from './issuer-client.ts';
import { startIssuerServer, type IssuerServerOptions } from './issuer-server.ts';
import { openControllerTls, type ControllerTls } from './tls/controller-tls.ts';
import { createCsr, newKeyPair, type KeyPair } from './tls/x509.ts';

const token = 'token-of-the-pod';
let ca: TestAuthority;
let directory: string;
let tls: ControllerTls;
let server: ListeningServer | undefined;
let lines: string[];

const logger: Logger = {
  ...silentLogger,
  info: add,
  warn: add,
  error: add,
  child: () => logger,
};
function add(message: string, fields: LogFields = {}): void {
  lines.push(`${message} ${JSON.stringify(fields)}`);
}

beforeEach(async () => {
  lines = [];
  ca = newAuthority();
  directory = await mkdtemp(join(tmpdir(), 'issuer-'));
  await writeFile(join(directory, 'tls.crt'), ca.certificatePem);
  await writeFile(join(directory, 'tls.key'), ca.keyPem);
  tls = await openControllerTls({ directory, driverName, clock: systemClock, logger });
});

afterEach(async () => {
  await server?.close(200);
  server = undefined;
  await tls.close();
  await rm(directory, { recursive: true, force: true });
});

async function serve(changes: Partial<IssuerServerOptions> = {}): Promise<TcpEndpoint> {
  server = await startIssuerServer({
    endpoint: { kind: 'tcp', host: '127.0.0.1', port: 0 },
    driverName,
    tls,
    review: (given) =>
      Promise.resolve(
        given === token
          ? { kind: 'accepted', nodeId: 'n1' }
          : { kind: 'refused', reason: 'the token is not one of a volumedriver' },
      ),
    logger,
    ...changes,
  });
  return server.endpoint as TcpEndpoint;
}

interface Asked {
  keys?: KeyPair;
  csrDer?: Uint8Array;
  token?: string;
  trustPem?: string;
  driverName?: string;
}

function ask(
  issuer: TcpEndpoint,
  { keys = newKeyPair(), ...changes }: Asked = {},
): Promise<string> {
  return requestCertificate({
    issuer,
    driverName,
    trustPem: ca.certificatePem,
    csrDer: createCsr(keys),
    token,
    ...changes,
  });
}

async function failureOf(asked: Promise<unknown>): Promise<VolumeError> {
  const error: unknown = await asked.then(
    () => null,
    (caught: unknown) => caught,
  );
  expect(error).toMatchObject({ name: 'VolumeError' });
  return error as VolumeError;
}

describe('the issuer', () => {
  test('gives a certificate for the key of the request and the node of the token', async () => {
    const keys = newKeyPair();
    const certificate = new X509Certificate(await ask(await serve(), { keys }));
    expect(certificate.subjectAltName).toBe('URI:volumedriver://csi.example/volumedriver/n1');
    expect(certificate.publicKey.equals(createPublicKey(keys.privateKey))).toBe(true);
    expect(certificate.verify(ca.certificate.publicKey)).toBe(true);
    expect(lines).toContain('certificate issued {"nodeId":"n1"}');
  });

  test('refuses a token with the reason of its review', async () => {
    const error = await failureOf(ask(await serve(), { token: 'something-secret' }));
    expect(error.code).toBe('PERMISSION_DENIED');
    expect(error.message).toBe('issue a certificate: the token is not one of a volumedriver');
  });

  test('has no token in its log, whatever comes', async () => {
    const issuer = await serve({
      review: (given) => Promise.reject(new VolumeError('UNAVAILABLE', `API of ${given.length}`)),
    });
    await failureOf(ask(issuer));
    await failureOf(ask(issuer, { token: 'x'.repeat(20_000) }));
    await failureOf(ask(issuer, { csrDer: Buffer.from(token) }));
    expect(lines.length).toBeGreaterThan(2);
    expect(lines.join('\n')).not.toContain(token);
    expect(lines.join('\n')).not.toContain('xxxx');
    expect(lines.join('\n')).toContain(`"tokenBytes":${token.length}`);
  });

  test('is UNAVAILABLE when nobody can tell, and tells the caller no more than that', async () => {
    const issuer = await serve({ review: () => Promise.reject(new Error('10.0.0.7 said no')) });
    const error = await failureOf(ask(issuer));
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).not.toContain('10.0.0.7');
    expect(error.message).toContain('repeat later');
    expect(lines.join('\n')).toContain('10.0.0.7');
  });

  test('does not wait for a review that never ends', async () => {
    let aborted = false;
    const review: IssuerServerOptions['review'] = (_token, signal) => {
      signal.addEventListener('abort', () => (aborted = true));
      return new Promise(() => undefined);
    };
    const issuer = await serve({ review, reviewMs: 200, reviewsMax: 1 });
    expect((await failureOf(ask(issuer))).code).toBe('UNAVAILABLE');
    expect(aborted).toBe(true);
    // The place is free again.
    expect((await failureOf(ask(issuer))).code).toBe('UNAVAILABLE');
  });

  test('reviews only so many tokens at a time', async () => {
    const held = Promise.withResolvers<void>();
    let waiting = 0;
    const review: IssuerServerOptions['review'] = async () => {
      waiting += 1;
      await held.promise;
      return { kind: 'accepted', nodeId: 'n1' };
    };
    const issuer = await serve({ review, reviewsMax: 2 });
    const first = [ask(issuer), ask(issuer)];
    while (waiting < 2) await systemClock.sleep(10);
    expect((await failureOf(ask(issuer))).code).toBe('LIMIT_REACHED');
    held.resolve();
    await Promise.all(first);
    await ask(issuer);
  });

  test('names no node that is not there', async () => {
    const issuer = await serve({
      review: () => Promise.resolve({ kind: 'accepted', nodeId: '' }),
    });
    expect((await failureOf(ask(issuer))).message).toContain('has no node');
  });

  test.each<[string, Asked, string]>([
    ['no request', { csrDer: new Uint8Array() }, 'csr_der: it must have 1 to 4096 bytes'],
    ['a huge request', { csrDer: new Uint8Array(5000) }, 'csr_der: it must have 1 to 4096 bytes'],
    ['noise', { csrDer: new Uint8Array(500) }, 'it is not a PKCS#10 request'],
    ['no token', { token: '' }, 'token: it is required'],
    ['a huge token', { token: 'x'.repeat(17_000) }, 'token: it has 17000 bytes'],
  ])('refuses %s', async (_, asked, says) => {
    const error = await failureOf(ask(await serve(), asked));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain(says);
  });

  test('takes no message that is larger than any request', async () => {
    const error = await failureOf(ask(await serve(), { token: 'x'.repeat(100_000) }));
    // gRPC's own answer.
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toContain('larger than max');
  });

  test('says so when its CA has expired', async () => {
    const expired = newAuthority({ endMs: -1000 });
    const old = {
      material: tls.material,
      onChange: () => () => undefined,
      issue: () => issueTo(expired, controller).certificatePem,
    };
    const error = await failureOf(ask(await serve({ tls: old })));
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toMatch(/sign with the CA .*: it is valid from .* put a valid CA/);
  });

  test('offers nothing else', async () => {
    const issuer = await serve();
    const source = sourceOf(ca.certificatePem, null);
    const peer = new GrpcPeer('the issuer', issuer, { source, expect: controller });
    try {
      const call = peer.call(VolumedriverService.getInfo, {}, 2000);
      expect((await failureOf(call)).code).toBe('NOT_IMPLEMENTED');
    } finally {
      peer.close();
    }
  });
});

describe('a caller', () => {
  test('gives its token to nobody of another CA', async () => {
    let reviewed = 0;
    const issuer = await serve({
      review: () => {
        reviewed += 1;
        return Promise.resolve({ kind: 'accepted', nodeId: 'n1' });
      },
    });
    const error = await failureOf(ask(issuer, { trustPem: newAuthority().certificatePem }));
    expect(error.code).toBe('UNAVAILABLE');
    const wrongDriver = await failureOf(ask(issuer, { driverName: 'csi.other' }));
    expect(wrongDriver.message).toContain('names volumedriver://csi.example/controller and not');
    expect(reviewed).toBe(0);
  });

  test('does not send its token without TLS', async () => {
    const { port } = await serve();
    const plain = new GrpcPeer('the issuer', { kind: 'tcp', host: '127.0.0.1', port });
    try {
      const request = { csrDer: Buffer.alloc(1), token };
      const call = plain.call(IssuerService.issueCertificate, request, 2000);
      expect((await failureOf(call)).code).toBe('UNAVAILABLE');
    } finally {
      plain.close();
    }
    const away = { kind: 'tcp', host: '192.0.2.1', port: 9808 } as const;
    expect(() => new GrpcPeer('the issuer', away)).toThrow('TCP without mutual TLS');
  });
});
