import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { link, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MemoryStorage, type Call } from '../../test/support/memory-device.ts';
import { eventually, startNbdFixture, type NbdFixture } from '../../test/support/nbd-fixture.ts';
import { RawNbdClient } from '../../test/support/raw-nbd-client.ts';
import { connectNbd } from './client.ts';
import { commands } from './protocol.ts';
import { formatNbdUri } from './uri.ts';

let fixture: NbdFixture;
let intercept: (call: Call) => Promise<void> | void;
let lastLeft = 0;

beforeEach(async () => {
  lastLeft = 0;
  fixture = await startNbdFixture({ onLastClientLeft: () => (lastLeft += 1) });
  intercept = () => undefined;
  fixture.exports.add('vol', new MemoryStorage(2 ** 20), (call) => intercept(call));
});

afterEach(async () => {
  await fixture.close();
});

const open = async (): Promise<RawNbdClient> => await RawNbdClient.open(fixture.address, 'vol');

describe('clients', () => {
  test('are counted, and the last one to leave is reported', async () => {
    const negotiating = await RawNbdClient.connect(fixture.address);
    const clients = [await open(), await open()];
    expect(fixture.server.clientCount).toBe(2);
    expect(fixture.server.connectionCount).toBe(3);
    negotiating.destroy();
    clients[0]?.destroy();
    await eventually(() => fixture.server.connectionCount === 1, 'two are gone');
    expect(lastLeft).toBe(0);
    clients[1]?.request(commands.DISC, 0, {});
    await clients[1]?.gone();
    await eventually(() => fixture.server.clientCount === 0, 'all are gone');
    expect(lastLeft).toBe(1);
    expect(fixture.exports.devices.map(({ closeCalls }) => closeCalls)).toEqual([1, 1]);
  });

  test('DISC is obeyed when all before it is answered, and nothing behind it is done', async () => {
    let release: () => void = () => undefined;
    intercept = () => new Promise((resolve) => (release = resolve));
    const client = await open();
    client.socket.cork();
    client.write(1, 0, Buffer.alloc(512, 1));
    client.request(commands.DISC, 2, {});
    client.write(3, 0, Buffer.alloc(512, 2));
    client.socket.uncork();
    const device = fixture.exports.devices[0];
    await eventually(() => device?.calls.length === 1, 'the write came');
    await sleep(20);
    expect(device?.closeCalls).toBe(0);
    release();
    expect(await client.simple()).toEqual({ error: 0, cookie: 1 });
    await client.gone();
    expect(device?.calls.length).toBe(1);
    await eventually(() => device?.closeCalls === 1, 'the device is closed');
  });

  test('a client that leaves right behind its DISC still gets its writes done', async () => {
    let release: () => void = () => undefined;
    intercept = () => new Promise((resolve) => (release = resolve));
    const client = await open();
    client.write(1, 0, Buffer.alloc(512, 1));
    client.request(commands.DISC, 2, {});
    client.socket.end();
    const device = fixture.exports.devices[0];
    await eventually(() => device?.calls.length === 1, 'the write came');
    await sleep(20);
    expect(device?.closeCalls).toBe(0);
    release();
    await eventually(() => device?.closeCalls === 1, 'the device is closed');
  });

  test('the end of the stream without DISC closes the device at once', async () => {
    intercept = () => new Promise(() => undefined);
    const client = await open();
    client.write(1, 0, Buffer.alloc(512, 1));
    const device = fixture.exports.devices[0];
    await eventually(() => device?.calls.length === 1, 'the write came');
    client.socket.end();
    await eventually(() => device?.closeCalls === 1, 'the device is closed');
  });

  test('are dropped at once when their device is revoked', async () => {
    const [client, other] = [await open(), await open()];
    fixture.exports.devices[0]?.revoke();
    await client.gone();
    other.request(commands.FLUSH, 1, {});
    expect((await other.simple()).error).toBe(0);
    other.destroy();
  });
});

describe('closing', () => {
  test('answers what is in flight', async () => {
    let release: () => void = () => undefined;
    intercept = () => new Promise((resolve) => (release = resolve));
    const client = await open();
    client.write(1, 0, Buffer.alloc(512, 1));
    await eventually(() => fixture.exports.devices[0]?.calls.length === 1, 'the write came');
    const closed = fixture.server.close({ graceMs: 0, drainMs: 2000 });
    await sleep(20);
    release();
    expect((await client.simple()).error).toBe(0);
    await closed;
    expect(fixture.server.connectionCount).toBe(0);
    await expect(stat(join(fixture.folder, 'nbd.sock'))).rejects.toThrow('ENOENT');
  });

  test('cuts what does not finish in time', async () => {
    intercept = () => new Promise(() => undefined);
    const client = await open();
    client.write(1, 0, Buffer.alloc(512, 1));
    await eventually(() => fixture.exports.devices[0]?.calls.length === 1, 'the write came');
    await fixture.server.close({ graceMs: 0, drainMs: 50 });
    await client.gone();
    expect(fixture.exports.devices[0]?.closeCalls).toBe(1);
  });

  test('waits for clients to leave by themselves, and takes no new ones', async () => {
    const client = await open();
    const closed = fixture.server.close({ graceMs: 5000, drainMs: 50 });
    await expect(RawNbdClient.connect(fixture.address)).rejects.toThrow();
    client.request(commands.FLUSH, 1, {});
    expect((await client.simple()).error).toBe(0);
    client.request(commands.DISC, 2, {});
    const started = Date.now();
    await closed;
    expect(Date.now() - started).toBeLessThan(2000);
  });
});

describe('listening', () => {
  test('several addresses at once, each with the same exports', async () => {
    const tcp = await fixture.server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
    expect(tcp).not.toMatchObject({ port: 0 });
    expect(fixture.server.addresses).toEqual([fixture.address, tcp]);
    const client = await connectNbd(formatNbdUri({ address: tcp, exportName: 'vol' }));
    await client.write(0, Buffer.alloc(300_000, 1));
    const other = await connectNbd(fixture.uri('vol'));
    expect((await other.read(0, 300_000)).equals(Buffer.alloc(300_000, 1))).toBe(true);
    await Promise.all([client.disconnect(), other.disconnect()]);
  });

  test('the socket is for its owner only', async () => {
    const { mode } = await stat(join(fixture.folder, 'nbd.sock'));
    expect(mode & 0o777).toBe(0o600);
  });

  test('a socket that a dead server left is replaced', async () => {
    const path = join(fixture.folder, 'stale.sock');
    await leaveStaleSocket(path);
    expect((await stat(path)).isSocket()).toBe(true);
    await fixture.server.listen({ kind: 'unix', path });
    const client = await RawNbdClient.connect({ kind: 'unix', path });
    client.destroy();
  });

  test('a living server is not pushed aside', async () => {
    await expect(fixture.server.listen(fixture.address)).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
    (await open()).destroy();
  });

  test('a file that is no socket is left alone', async () => {
    const path = join(fixture.folder, 'file');
    await writeFile(path, 'precious');
    await expect(fixture.server.listen({ kind: 'unix', path })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    expect((await stat(path)).size).toBe(8);
  });

  test.each(['0.0.0.0', '::', '192.0.2.1', 'example.org', '127.1.example.org'])(
    '%s is refused without TLS',
    async (host) => {
      await expect(fixture.server.listen({ kind: 'tcp', host, port: 0 })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    },
  );
});

/** Node removes its sockets on close, so another name for one is what stays. */
async function leaveStaleSocket(path: string): Promise<void> {
  const first = `${path}.first`;
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(first, resolve));
  await link(first, path);
  await new Promise((resolve) => server.close(resolve));
}
