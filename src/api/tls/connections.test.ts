/** The volumedriver's API over TCP: who gets through, who does not, and what happens while certificates change. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { connect as connectPlain, createServer, type AddressInfo, type Socket } from 'node:net';
import { connect, createServer as createTlsServer, type ConnectionOptions } from 'node:tls';
import { Server } from '@grpc/grpc-js';
import {
  controller,
  forge,
  issueTo,
  newAuthority,
  rsaKeys,
  sourceOf,
  volumedriver,
  type OwnPem,
  type TestAuthority,
} from '../../../test/support/certificates.ts';
import { eventually } from '../../../test/support/eventually.ts';
import { MemoryVolumeService } from '../../../test/support/memory-volume-service.ts';
import { describeVolumeService } from '../../../test/support/volume-service-contract.ts';
import { silentLogger } from '../../base/logger.ts';
import type { VolumeError } from '../../volumes/errors.ts';
import type { TcpEndpoint } from '../endpoint.ts';
import type { ListeningServer } from '../grpc-server.ts';
import { VolumedriverClient } from '../volumedriver-client.ts';
import { startVolumedriverServer } from '../volumedriver-server.ts';
import { formatIdentity, type TlsIdentity } from './identity.ts';
import { ChangingServerCredentials } from './server-credentials.ts';
import { listenWithTls } from './tls-listener.ts';
import { MaterialCell, type TlsSource } from './tls-source.ts';

const loopback: TcpEndpoint = { kind: 'tcp', host: '127.0.0.1', port: 0 };

let cleanUps: (() => void | Promise<void>)[];
beforeEach(() => {
  cleanUps = [];
});
afterEach(async () => {
  for (const cleanUp of cleanUps.reverse()) await cleanUp();
});

async function serve(source: TlsSource, connectionMs?: number): Promise<TcpEndpoint> {
  const server: ListeningServer = await startVolumedriverServer({
    endpoint: loopback,
    service: new MemoryVolumeService(),
    logger: silentLogger,
    tls: { source, client: controller, ...(connectionMs !== undefined && { connectionMs }) },
  });
  cleanUps.push(() => server.close(200));
  return server.endpoint as TcpEndpoint;
}

function clientOf(
  endpoint: TcpEndpoint,
  source: TlsSource,
  expected: TlsIdentity = volumedriver('n1'),
): VolumedriverClient {
  const client = new VolumedriverClient(endpoint, {
    tls: { source, expect: expected },
    timeoutMs: 3000,
  });
  cleanUps.push(() => {
    client.close();
  });
  return client;
}

async function failureOf(client: VolumedriverClient): Promise<VolumeError> {
  const error: unknown = await client.info().then(
    () => null,
    (caught: unknown) => caught,
  );
  expect(error).toMatchObject({ name: 'VolumeError' });
  return error as VolumeError;
}

function goodPair(ca = newAuthority()): {
  ca: TestAuthority;
  server: MaterialCell;
  client: MaterialCell;
} {
  return {
    ca,
    server: sourceOf(ca.certificatePem, issueTo(ca, volumedriver('n1'))),
    client: sourceOf(ca.certificatePem, issueTo(ca, controller)),
  };
}

describeVolumeService('over mutual TLS', async () => {
  const { server: source, client } = goodPair();
  const server = await startVolumedriverServer({
    endpoint: loopback,
    service: new MemoryVolumeService(),
    logger: silentLogger,
    tls: { source, client: controller },
  });
  const service = new VolumedriverClient(server.endpoint, {
    tls: { source: client, expect: volumedriver('n1') },
  });
  return {
    service,
    close: async () => {
      service.close();
      await server.close(200);
    },
  };
});

describe('authorities', () => {
  test('of Helm, with RSA, work as well', async () => {
    const { server, client } = goodPair(newAuthority({ keys: rsaKeys() }));
    await clientOf(await serve(server), client).info();
  });

  test('of one name are told apart while both are trusted', async () => {
    const [old, next] = [newAuthority(), newAuthority()];
    for (const trust of [
      old.certificatePem + next.certificatePem,
      next.certificatePem + old.certificatePem,
    ]) {
      const server = sourceOf(trust, issueTo(old, volumedriver('n1')));
      await clientOf(await serve(server), sourceOf(trust, issueTo(next, controller))).info();
    }
  });

  test('below another one work when that is trusted', async () => {
    const root = newAuthority({ name: 'root' });
    const ca = newAuthority({ name: 'intermediate', parent: root });
    const server = sourceOf(root.certificatePem, issueTo(ca, volumedriver('n1')));
    const client = sourceOf(root.certificatePem, issueTo(ca, controller));
    await clientOf(await serve(server), client).info();
  });

  test('below another one do not work when that is not trusted', async () => {
    const ca = newAuthority({ name: 'intermediate', parent: newAuthority({ name: 'root' }) });
    const trust = ca.certificate.toString();
    const server = sourceOf(trust, issueTo(ca, volumedriver('n1')));
    const client = clientOf(await serve(server), sourceOf(trust, issueTo(ca, controller)));
    expect((await failureOf(client)).message).toContain('unable to get issuer certificate');
  });
});

describe('a client is refused', () => {
  const ca = newAuthority();
  const other = newAuthority();
  const uri = formatIdentity(controller);
  test.each<[string, OwnPem | null]>([
    ['without a certificate', null],
    ['with one of another CA', issueTo(other, controller)],
    ['with one of another CA of the same name', issueTo(newAuthority(), controller)],
    ['with one that signed itself', issueTo(newAuthority(), controller)],
    ['with an expired one', forge(ca, { uri, usages: ['client'], notAfterMs: Date.now() - 1000 })],
    [
      'with one that is not valid yet',
      forge(ca, { uri, usages: ['client'], notBeforeMs: Date.now() + 60_000 }),
    ],
    ['with that of a volumedriver', issueTo(ca, volumedriver('n1'))],
    ['with one for servers', forge(ca, { uri, usages: ['server'] })],
  ])('%s', async (_, own) => {
    const server = sourceOf(ca.certificatePem, issueTo(ca, volumedriver('n1')));
    const client = clientOf(await serve(server), sourceOf(ca.certificatePem, own));
    const error = await failureOf(client);
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toMatch(/does not accept our certificate|certificate required/);
  });

  test.each<[string, string | undefined, string]>([
    ['the controller of another driver', 'volumedriver://other/controller', 'the caller is vol'],
    ['a volumedriver', formatIdentity(volumedriver('n1')), 'n1, and only'],
    ['nobody', undefined, 'somebody without an identity'],
    ['a host', 'https://csi.example/controller', 'somebody without an identity'],
  ])('whose certificate names %s', async (_, name, says) => {
    const server = sourceOf(ca.certificatePem, issueTo(ca, volumedriver('n1')));
    const own = forge(ca, { usages: ['client'], ...(name !== undefined && { uri: name }) });
    const client = clientOf(await serve(server), sourceOf(ca.certificatePem, own));
    const error = await failureOf(client);
    expect(error).toMatchObject({ code: 'PERMISSION_DENIED' });
    expect(error.message).toContain(says);
  });

  test('with TLS 1.2', async () => {
    const { server, client } = goodPair(ca);
    const { port } = await serve(server);
    const own = client.material?.own;
    const attempt = (version: 'TLSv1.2' | 'TLSv1.3'): Promise<string | null> =>
      handshake({
        port,
        host: loopback.host,
        ca: ca.certificatePem,
        ...(own && { cert: own.certificatePem, key: own.keyPem }),
        minVersion: version,
        maxVersion: version,
        ALPNProtocols: ['h2'],
        checkServerIdentity: () => undefined,
      });
    expect(await attempt('TLSv1.3')).toBe('TLSv1.3');
    await expect(attempt('TLSv1.2')).rejects.toThrow(/protocol version/);
  });

  test('that resumes a session: it has to show its certificate each time', async () => {
    const { server, client } = goodPair(ca);
    const { port } = await serve(server);
    const own = client.material?.own;
    const options: ConnectionOptions = {
      port,
      host: loopback.host,
      ca: ca.certificatePem,
      ...(own && { cert: own.certificatePem, key: own.keyPem }),
      ALPNProtocols: ['h2'],
      checkServerIdentity: () => undefined,
    };
    let session: Buffer | undefined;
    const first = connect(options).on('session', (ticket) => (session = ticket));
    await once(first, 'data');
    first.destroy();
    const second = connect({ ...options, ...(session && { session }) });
    await once(second, 'data');
    expect(second.isSessionReused()).toBe(false);
    second.destroy();
  });

  test('without TLS', async () => {
    const { server } = goodPair(ca);
    const client = new VolumedriverClient(await serve(server), { timeoutMs: 1000 });
    cleanUps.push(() => {
      client.close();
    });
    expect((await failureOf(client)).code).toBe('UNAVAILABLE');
  });

  test('while the server has no certificate, and let in once it has', async () => {
    const { server, client } = goodPair(ca);
    const later = new MaterialCell();
    const caller = clientOf(await serve(later), client);
    expect((await failureOf(caller)).code).toBe('UNAVAILABLE');
    if (server.material !== null) later.set(server.material);
    await eventually(() => caller.info());
  });
});

describe('a server is refused', () => {
  const ca = newAuthority();
  const trusted = sourceOf(ca.certificatePem, issueTo(ca, controller));
  test.each<[string, OwnPem, RegExp]>([
    [
      'that is another node',
      issueTo(ca, volumedriver('n2')),
      /names \S+\/volumedriver\/n2 and not \S+\/volumedriver\/n1/,
    ],
    ['that is a controller', issueTo(ca, controller), /names \S+\/controller and not/],
    ['of another driver', forge(ca, { uri: 'volumedriver://x/volumedriver/n1' }), /names \S+x\//],
    ['without an identity', forge(ca, { usages: ['server'] }), /names no identity of ours/],
    ['of another CA', issueTo(newAuthority(), volumedriver('n1')), /certificate|signature/],
    [
      'whose certificate has expired',
      forge(ca, { uri: formatIdentity(volumedriver('n1')), notAfterMs: Date.now() - 1000 }),
      /expired/,
    ],
    [
      'whose certificate is for clients',
      forge(ca, { uri: formatIdentity(volumedriver('n1')), usages: ['client'] }),
      /purpose/,
    ],
  ])('%s', async (_, own, says) => {
    const endpoint = await serve(sourceOf(ca.certificatePem, own));
    const error = await failureOf(clientOf(endpoint, trusted));
    expect(error.code).toBe('UNAVAILABLE');
    expect(error.message).toMatch(says);
  });

  test('that speaks TLS 1.2', async () => {
    const own = issueTo(ca, volumedriver('n1'));
    const server = createTlsServer({
      cert: own.certificatePem,
      key: own.keyPem,
      maxVersion: 'TLSv1.2',
      ALPNProtocols: ['h2'],
    });
    server.on('tlsClientError', () => undefined);
    server.listen(0, loopback.host);
    await once(server, 'listening');
    cleanUps.push(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const error = await failureOf(clientOf({ ...loopback, port }, trusted));
    expect(error.message).toMatch(/protocol version/);
  });

  test('that says nothing, without waiting longer than a call may', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => sockets.push(socket.on('error', () => undefined)));
    server.listen(0, loopback.host);
    await once(server, 'listening');
    cleanUps.push(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const { port } = server.address() as AddressInfo;
    const client = new VolumedriverClient(
      { ...loopback, port },
      { tls: { source: trusted, expect: volumedriver('n1') }, timeoutMs: 300 },
    );
    cleanUps.push(() => {
      client.close();
    });
    expect((await failureOf(client)).code).toBe('UNAVAILABLE');
  });

  test('when we have no certificate of our own, and it says so', async () => {
    const { server } = goodPair(ca);
    const error = await failureOf(clientOf(await serve(server), new MaterialCell()));
    expect(error.message).toContain('no certificate of our own yet');
  });
});

test('a server that was silent is reached at once when it is back', async () => {
  const { server: source, client } = goodPair();
  const sockets: Socket[] = [];
  const silent = createServer((socket) => sockets.push(socket.on('error', () => undefined)));
  silent.listen(0, loopback.host);
  await once(silent, 'listening');
  const endpoint = { ...loopback, port: (silent.address() as AddressInfo).port };
  const caller = new VolumedriverClient(endpoint, {
    tls: { source: client, expect: volumedriver('n1') },
    timeoutMs: 500,
  });
  cleanUps.push(() => {
    for (const socket of sockets) socket.destroy();
    caller.close();
  });
  const early = [caller.info(), caller.info()];
  for (const call of early) await expect(call).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  // Its old connections stay as they are: nobody says that they are of no use any more.
  silent.close();
  const server = await startVolumedriverServer({
    ...{ endpoint, service: new MemoryVolumeService(), logger: silentLogger },
    tls: { source, client: controller },
  });
  cleanUps.push(() => server.close(200));
  expect((await caller.info()).ready).toBe(true);
});

describe('a listener', () => {
  const ca = newAuthority();

  test('takes only so many connections, whoever opens them', async () => {
    const server = new Server();
    const credentials = new ChangingServerCredentials(goodPair(ca).server, 'certificate');
    const listener = await listenWithTls(server, loopback, credentials, 3);
    const sockets: Socket[] = [];
    const ended: number[] = [];
    cleanUps.push(() => {
      for (const socket of sockets) socket.destroy();
      listener.stop();
      listener.destroy();
      server.forceShutdown();
    });
    for (let index = 0; index < 6; index++) {
      const socket = connectPlain(listener.port, loopback.host);
      sockets.push(socket.on('error', () => undefined));
      socket.once('close', () => ended.push(index));
      await once(socket, 'connect');
    }
    await eventually(() => {
      expect(ended.toSorted()).toEqual([3, 4, 5]);
    });
    sockets[0]?.destroy();
    await eventually(async () => {
      const socket = connectPlain(listener.port, loopback.host);
      sockets.push(socket.on('error', () => undefined));
      const closed = once(socket, 'close').then(() => 'closed');
      const open = new Promise((resolve) => setTimeout(resolve, 200, 'open'));
      expect(await Promise.race([closed, open])).toBe('open');
    });
  });

  test('says which address is taken', async () => {
    const { server } = goodPair(ca);
    const endpoint = await serve(server);
    await expect(
      startVolumedriverServer({
        ...{ endpoint, service: new MemoryVolumeService(), logger: silentLogger },
        tls: { source: server, client: controller },
      }),
    ).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining(`listen on tcp:127.0.0.1:${endpoint.port}`),
    });
  });

  test('ends with clients connected that say nothing', async () => {
    const endpoint = await serve(goodPair(ca).server);
    const socket = connectPlain(endpoint.port, endpoint.host).on('error', () => undefined);
    await once(socket, 'connect');
    const closed = once(socket, 'close');
    await cleanUps.pop()?.();
    await closed;
  });
});

/** The protocol of a connection on which the server has said something; rejects when it is closed before. */
function handshake(options: ConnectionOptions): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const socket = connect(options);
    socket.once('data', () => {
      resolve(socket.getProtocol());
      socket.destroy();
    });
    socket.once('error', reject);
    socket.once('close', () => {
      reject(new Error('it was closed'));
    });
  });
}
