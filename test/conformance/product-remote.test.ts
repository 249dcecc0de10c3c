/**
 * The built volumedriver as a cluster has it: it serves its node from the first moment, gets its certificate from the
 * issuer whenever that is there, keeps it over restarts, and serves a controller over mutual TLS. Probes and Prometheus
 * read how it is.
 */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { TcpEndpoint } from '../../src/api/endpoint.ts';
import type { ListeningServer } from '../../src/api/grpc-server.ts';
import { startIssuerServer } from '../../src/api/issuer-server.ts';
import { openControllerTls, type ControllerTls } from '../../src/api/tls/controller-tls.ts';
import { VolumedriverClient } from '../../src/api/volumedriver-client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger } from '../../src/base/logger.ts';
import { AttachSandbox } from '../support/attach-cleanup.ts';
import { driverName, issueTo, newAuthority, volumedriver } from '../support/certificates.ts';
import { eventually } from '../support/eventually.ts';
import { Product } from '../support/product.ts';

const limitMs = 120_000;
const host = '127.0.0.1';
const ca = newAuthority();

let sandbox: AttachSandbox;
let product: Product | undefined;
let tls: ControllerTls;
let issuer: ListeningServer | undefined;
let ports: { remote: number; metrics: number; issuer: number };
let clients: VolumedriverClient[];

beforeEach(async () => {
  clients = [];
  sandbox = await AttachSandbox.open();
  const files = { 'tls.crt': ca.certificatePem, 'tls.key': ca.keyPem, token: 'token' };
  await mkdir(path('ca'));
  for (const [name, content] of Object.entries(files)) await writeFile(path('ca', name), content);
  const directory = path('ca');
  tls = await openControllerTls({
    directory,
    driverName,
    clock: systemClock,
    logger: silentLogger,
  });
  ports = { remote: await freePort(), metrics: await freePort(), issuer: await freePort() };
});

afterEach(async () => {
  for (const client of clients) client.close();
  await issuer?.close(200);
  issuer = undefined;
  await tls.close();
  await product?.close();
  product = undefined;
  await sandbox.close();
});

function path(...names: string[]): string {
  return join(sandbox.path, ...names);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function open(certificate: readonly string[]): Promise<Product> {
  product = await Product.open({
    sandbox,
    flags: [
      ...['--driver-name', driverName, '--node-id', 'n1'],
      ...['--remote-api', `tcp:${host}:${ports.remote}`, '--tls-ca', path('ca/tls.crt')],
      ...certificate,
      ...['--metrics', `tcp:${host}:${ports.metrics}`],
    ],
  });
  return product;
}

async function startIssuer(): Promise<void> {
  issuer = await startIssuerServer({
    endpoint: { kind: 'tcp', host, port: ports.issuer },
    ...{ driverName, tls, logger: silentLogger },
    review: (token) =>
      Promise.resolve(
        token === 'token'
          ? { kind: 'accepted', nodeId: 'n1' }
          : { kind: 'refused', reason: 'no such pod' },
      ),
  });
}

function controllerClient(nodeId = 'n1'): VolumedriverClient {
  const endpoint: TcpEndpoint = { kind: 'tcp', host, port: ports.remote };
  const client = new VolumedriverClient(endpoint, {
    tls: { source: tls, expect: volumedriver(nodeId) },
    timeoutMs: 5000,
  });
  clients.push(client);
  return client;
}

async function read(page: string): Promise<{ status: number; text: string }> {
  const answer = await fetch(`http://${host}:${ports.metrics}/${page}`);
  return { status: answer.status, text: await answer.text() };
}

const fromIssuer = (): string[] => [
  ...['--tls-issuer', `${host}:${ports.issuer}`, '--tls-token', path('ca/token')],
];

test(
  'a volumedriver serves its node without a certificate, and controllers once it has one',
  async () => {
    const running = await open(fromIssuer());
    await running.volumes.createVolume({ name: 'v', sizeBytes: 4096 });
    expect((await read('healthz')).status).toBe(200);
    await eventually(async () => {
      const { status, text } = await read('readyz');
      expect(status).toBe(503);
      expect(text).toMatch(/^controllers cannot connect: there is no certificate yet: call the is/);
    });
    await expect(controllerClient().info()).rejects.toMatchObject({ code: 'UNAVAILABLE' });

    await startIssuer();
    await eventually(async () => {
      expect(await read('readyz')).toEqual({ status: 200, text: 'ok\n' });
    });
    const client = controllerClient();
    expect(await client.info()).toMatchObject({ nodeId: 'n1', ready: true });
    expect((await client.getVolume('v')).sizeBytes).toBe(4096);
    await expect(controllerClient('n2').info()).rejects.toMatchObject({ code: 'UNAVAILABLE' });

    const { text } = await read('metrics');
    const expiry = /^volumedriver_certificate_expiry_timestamp_seconds (\d+)$/m.exec(text)?.[1];
    expect(Number(expiry)).toBeGreaterThan(Date.now() / 1000 + 23 * 3600);
    for (const line of [
      'volumedriver_ready 1',
      'volumedriver_volumes{state="all"} 1',
      'volumedriver_api_calls_total{rpc="CreateVolume",code="OK"} 1',
    ]) {
      expect(text.split('\n')).toContain(line);
    }
    expect(JSON.stringify(running.logLines())).not.toContain('"token":"token"');
  },
  limitMs,
);

test(
  'a certificate outlives a crash, without the issuer',
  async () => {
    await startIssuer();
    const running = await open(fromIssuer());
    await eventually(() => controllerClient().info());
    await issuer?.close(200);
    issuer = undefined;
    await running.stop('SIGKILL');
    await running.start();
    expect(await read('readyz')).toEqual({ status: 200, text: 'ok\n' });
    await eventually(() => controllerClient().info());
    expect((await running.stop('SIGTERM')).code).toBe(0);
  },
  limitMs,
);

test(
  'a certificate of somebody else serves as well',
  async () => {
    const own = issueTo(ca, volumedriver('n1'));
    await writeFile(path('own.crt'), own.certificatePem);
    await writeFile(path('own.key'), own.keyPem);
    await open(['--tls-cert', path('own.crt'), '--tls-key', path('own.key')]);
    expect(await read('readyz')).toEqual({ status: 200, text: 'ok\n' });
    expect(await controllerClient().info()).toMatchObject({ nodeId: 'n1' });
  },
  limitMs,
);

test(
  'a volumedriver serves its node while the port for controllers is taken',
  async () => {
    const other = createServer((socket) => socket.destroy()).listen(ports.remote, host);
    await once(other, 'listening');
    const own = issueTo(ca, volumedriver('n1'));
    await writeFile(path('own.crt'), own.certificatePem);
    await writeFile(path('own.key'), own.keyPem);
    try {
      const running = await open(['--tls-cert', path('own.crt'), '--tls-key', path('own.key')]);
      await running.volumes.createVolume({ name: 'v', sizeBytes: 4096 });
      const { status, text } = await read('readyz');
      expect(status).toBe(503);
      expect(text).toMatch(/^controllers cannot connect: listen on tcp:.*EADDRINUSE/);
    } finally {
      other.close();
      await once(other, 'close');
    }
    await eventually(() => controllerClient().info());
    expect((await read('readyz')).status).toBe(200);
  },
  limitMs,
);
