/**
 * Everything together while certificates live for seconds: the controller with its CA, the issuer, the volumedriver, and
 * calls that go on. Nothing is ever restarted.
 */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { driverName, newAuthority } from '../../../test/support/certificates.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { MemoryVolumeService } from '../../../test/support/memory-volume-service.ts';
import { systemClock } from '../../base/clock.ts';
import { silentLogger } from '../../base/logger.ts';
import { systemRandom } from '../../base/random.ts';
import type { TcpEndpoint } from '../endpoint.ts';
import type { ListeningServer } from '../grpc-server.ts';
import { startIssuerServer } from '../issuer-server.ts';
import { VolumedriverClient } from '../volumedriver-client.ts';
import { startVolumedriverServer } from '../volumedriver-server.ts';
import { openControllerTls, type ControllerTls } from './controller-tls.ts';
import { openIssuedCertificate } from './issued-certificate.ts';
import type { OwnCertificate, TlsSource } from './tls-source.ts';

const identity = { kind: 'volumedriver', driverName, nodeId: 'n1' } as const;
const loopback: TcpEndpoint = { kind: 'tcp', host: '127.0.0.1', port: 0 };
/** Connections are made anew several times in the life of a certificate, as they are in a day. */
const lifetimeMs = 2400;
const connectionMs = 300;
const pollMs = 30;

let directory: string;
let tls: ControllerTls;
let issuer: ListeningServer;
let issued: OwnCertificate;
let server: ListeningServer;
let client: VolumedriverClient;
let calls: { stop: () => Promise<{ made: number; failures: unknown[] }> } | undefined;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'rotation-'));
  for (const folder of ['ca', 'node']) await mkdir(join(directory, folder));
  await put('node/token', 'token');
});

afterEach(async () => {
  await calls?.stop();
  calls = undefined;
  client.close();
  await server.close(200);
  await issuer.close(200);
  await issued.close();
  await tls.close();
  await rm(directory, { recursive: true, force: true });
});

async function put(name: string, content: string): Promise<void> {
  await writeFile(join(directory, name), content);
}

async function start(): Promise<void> {
  const common = { clock: systemClock, logger: silentLogger, pollMs };
  tls = await openControllerTls({
    ...common,
    ...{ directory: join(directory, 'ca'), driverName, lifetimeMs },
  });
  issuer = await startIssuerServer({
    ...{ endpoint: loopback, driverName, tls, logger: silentLogger },
    review: () => Promise.resolve({ kind: 'accepted', nodeId: 'n1' }),
  });
  issued = await openIssuedCertificate({
    ...{ ...common, identity, random: systemRandom, retryMs: 50 },
    directory: join(directory, 'node/tls'),
    trustFile: join(directory, 'node/ca.crt'),
    tokenFile: join(directory, 'node/token'),
    issuer: issuer.endpoint as TcpEndpoint,
  });
  server = await startVolumedriverServer({
    ...{ endpoint: loopback, service: new MemoryVolumeService(), logger: silentLogger },
    tls: { source: issued, client: { kind: 'controller', driverName }, connectionMs },
  });
  client = new VolumedriverClient(server.endpoint, {
    tls: { source: tls, expect: identity },
    timeoutMs: 5000,
  });
  await eventually(() => client.info());
}

/** Calls one after the other until they are stopped. */
function callOn(): NonNullable<typeof calls> {
  let made = 0;
  const failures: unknown[] = [];
  const state = { stopped: false };
  const running = (async () => {
    while (!state.stopped) {
      made += 1;
      await client.info().catch((error: unknown) => failures.push(error));
      await systemClock.sleep(5);
    }
  })();
  return {
    stop: async () => {
      state.stopped = true;
      await running;
      return { made, failures };
    },
  };
}

function serialOf({ material }: TlsSource): string {
  return new X509Certificate(material?.own?.certificatePem ?? '').serialNumber;
}

test('calls go on while both sides renew their certificates again and again', async () => {
  const ca = newAuthority();
  await put('ca/tls.crt', ca.certificatePem);
  await put('ca/tls.key', ca.keyPem);
  await put('node/ca.crt', ca.certificatePem);
  await start();
  const serials = { controller: new Set<string>(), volumedriver: new Set<string>() };
  calls = callOn();
  const endMs = Date.now() + 6000;
  while (Date.now() < endMs) {
    serials.controller.add(serialOf(tls));
    serials.volumedriver.add(serialOf(issued));
    await systemClock.sleep(20);
  }
  const { made, failures } = await calls.stop();
  expect(failures).toEqual([]);
  expect(made).toBeGreaterThan(50);
  // The certificates of the beginning have expired by now.
  expect(serials.controller.size).toBeGreaterThanOrEqual(4);
  expect(serials.volumedriver.size).toBeGreaterThanOrEqual(4);
});

test('calls go on while the CA is exchanged', async () => {
  const [old, next] = [newAuthority({ name: 'old' }), newAuthority({ name: 'next' })];
  await put('ca/tls.crt', old.certificatePem);
  await put('ca/tls.key', old.keyPem);
  await put('node/ca.crt', old.certificatePem);
  await start();
  calls = callOn();
  // Everybody trusts both,
  await put('ca/ca-bundle.crt', next.certificatePem);
  await put('node/ca.crt', old.certificatePem + next.certificatePem);
  await eventually(() => {
    for (const { material } of [tls, issued])
      expect(material?.trustPem).toContain(next.certificatePem);
  });
  // then the new one signs,
  await put('ca/ca-bundle.crt', old.certificatePem + next.certificatePem);
  await put('ca/tls.crt', next.certificatePem);
  await put('ca/tls.key', next.keyPem);
  await eventually(() => {
    for (const source of [tls, issued]) {
      const own = new X509Certificate(source.material?.own?.certificatePem ?? '');
      expect(own.issuer).toBe('CN=next');
    }
  });
  // then nobody trusts the old one.
  await put('ca/ca-bundle.crt', next.certificatePem);
  await put('node/ca.crt', next.certificatePem);
  await eventually(() => {
    for (const { material } of [tls, issued])
      expect(material?.trustPem).not.toContain(old.certificatePem);
  });
  await systemClock.sleep(2 * connectionMs);
  const { made, failures } = await calls.stop();
  expect(failures).toEqual([]);
  expect(made).toBeGreaterThan(20);
  await client.info();
});
