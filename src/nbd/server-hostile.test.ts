import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { setTimeout as sleep } from 'node:timers/promises';
import { MemoryStorage, type Call } from '../../test/support/memory-device.ts';
import { eventually, startNbdFixture, type NbdFixture } from '../../test/support/nbd-fixture.ts';
import { RawNbdClient } from '../../test/support/raw-nbd-client.ts';
import { connectNbd, type NbdClient } from './client.ts';
import { encodeInfoRequest, encodeOption } from './handshake-codec.ts';
import { commands, nbdErrors, options } from './protocol.ts';
import type { NbdLimits } from './limits.ts';

const kibi = 1024;
const limits: Partial<NbdLimits> = {
  inFlightRequests: 16,
  inFlightBytes: 256 * kibi,
  replyBacklogBytes: 256 * kibi,
  handshakeTimeoutMs: 200,
  handshakeOptions: 20,
  connections: 6,
};

let fixture: NbdFixture;
let intercept: (call: Call) => Promise<void> | void;
let bystander: NbdClient;
let hostile: RawNbdClient;

beforeEach(async () => {
  fixture = await startNbdFixture({ limits });
  intercept = () => undefined;
  fixture.exports.add('vol', new MemoryStorage(2 ** 22), (call) => intercept(call));
  fixture.exports.add('other', new MemoryStorage(2 ** 20));
  bystander = await connectNbd(fixture.uri('other'));
  hostile = await RawNbdClient.connect(fixture.address);
});

afterEach(async () => {
  // Whatever happened, the neighbour never noticed.
  await bystander.write(0, Buffer.from('still here'));
  expect((await bystander.read(0, 10)).toString()).toBe('still here');
  await bystander.disconnect();
  hostile.destroy();
  await fixture.close();
  expect(fixture.server.connectionCount).toBe(0);
  for (const device of fixture.exports.devices) expect(device.closeCalls).toBe(1);
});

describe('in the handshake', () => {
  test.each<[string, Buffer[]]>([
    ['unknown flags', [Buffer.from([0, 0, 1, 3])]],
    ['HTTP', [Buffer.from('GET / HTTP/1.1\r\n\r\n')]],
    ['a wrong option magic', [Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 1)]],
    [
      'a name for EXPORT_NAME that does not exist',
      [Buffer.from([0, 0, 0, 3]), encodeOption(1, Buffer.from('x'))],
    ],
    [
      'an option of 4 GiB',
      [Buffer.from([0, 0, 0, 3]), Buffer.from('49484156454f505400000003ffffffff', 'hex')],
    ],
    [
      'a flood of options',
      [
        Buffer.from([0, 0, 0, 3]),
        ...Array.from({ length: 100 }, () => encodeOption(3, Buffer.alloc(0))),
      ],
    ],
  ])('%s ends the connection', async (_, pieces) => {
    hostile.send(...pieces);
    await hostile.gone();
  });

  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['half its flags', Buffer.from([0, 0])],
    ['half an option', Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.from('IHAVE')])],
  ])('a client that says %s is dropped when its time is up', async (_, bytes) => {
    hostile.send(bytes);
    await hostile.gone();
  });

  test('a client that keeps asking does not get more time', async () => {
    await hostile.greet();
    const started = Date.now();
    while (!hostile.closed && Date.now() - started < 3000) {
      hostile.send(encodeOption(99, Buffer.alloc(0)));
      await sleep(60);
    }
    expect(hostile.closed).toBe(true);
  });

  test('our own time to open an export does not count', async () => {
    fixture.exports.beforeOpen = () => sleep(400);
    await hostile.greet();
    await hostile.go('vol');
    expect(fixture.server.clientCount).toBe(2);
  });

  test('a client that leaves while its export is opened leaves no device open', async () => {
    let opened: () => void = () => undefined;
    fixture.exports.beforeOpen = () => new Promise((resolve) => (opened = resolve));
    await hostile.greet();
    hostile.send(encodeOption(options.GO, encodeInfoRequest({ exportName: 'vol', infos: [] })));
    await sleep(20);
    hostile.destroy();
    await sleep(20);
    opened();
    await eventually(
      () => fixture.exports.devices.at(-1)?.closeCalls === 1,
      'the device is closed',
    );
  });

  test('connections over the limit are closed at once', async () => {
    const more = await Promise.all(
      Array.from({ length: 6 }, () => RawNbdClient.connect(fixture.address)),
    );
    await eventually(() => more.filter(({ closed }) => closed).length >= 2, 'two are refused');
    for (const client of more) client.destroy();
  });
});

describe('in the transmission phase', () => {
  beforeEach(async () => {
    await hostile.greet();
    await hostile.go('vol');
  });

  test('a wrong magic ends the connection', async () => {
    hostile.send(Buffer.alloc(28, 0xff));
    await hostile.gone();
  });

  test.each([2 ** 25 + 1, 0xffff_ffff])(
    'a write of %i bytes is answered, then ends it',
    async (length) => {
      hostile.request(commands.WRITE, 3, { length });
      hostile.send(Buffer.alloc(100_000));
      expect(await hostile.simple()).toEqual({ error: nbdErrors.EINVAL, cookie: 3 });
      await hostile.gone();
    },
  );

  test('half a request and half a payload leave nothing behind', async () => {
    hostile.request(commands.WRITE, 1, { length: 100_000 });
    hostile.send(Buffer.alloc(50_000, 1));
    await eventually(() => fixture.server.payloadCount === 1, 'the payload is being received');
    hostile.destroy();
    await eventually(() => fixture.server.clientCount === 1, 'the client is gone');
    expect(fixture.exports.devices.at(-1)?.calls).toEqual([]);
    expect(fixture.server.payloadCount).toBe(0);
  });

  test('more requests than allowed wait unread, and all are answered in the end', async () => {
    const waiting: (() => void)[] = [];
    intercept = () => new Promise((resolve) => waiting.push(resolve));
    const count = 5000;
    for (let cookie = 0; cookie < count; cookie++) hostile.request(commands.FLUSH, cookie, {});
    await eventually(() => waiting.length >= 16, 'the first came');
    await sleep(30);
    expect(waiting.length).toBe(16);
    intercept = () => undefined;
    for (const resolve of waiting) resolve();
    for (let answered = 0; answered < count; answered++) {
      expect((await hostile.simple()).error).toBe(0);
    }
  });

  test('payload bytes in flight are bounded', async () => {
    const waiting: (() => void)[] = [];
    intercept = () => new Promise((resolve) => waiting.push(resolve));
    for (let cookie = 0; cookie < 12; cookie++) hostile.write(cookie, 0, Buffer.alloc(64 * kibi));
    await eventually(() => waiting.length >= 4, 'the first came');
    await sleep(30);
    expect(waiting.length).toBeLessThanOrEqual(5);
    intercept = () => undefined;
    for (const resolve of waiting) resolve();
    for (let answered = 0; answered < 12; answered++)
      expect((await hostile.simple()).error).toBe(0);
  });

  test('memory of look-ups in flight is bounded', async () => {
    const waiting: (() => void)[] = [];
    intercept = () => new Promise((resolve) => waiting.push(resolve));
    for (let cookie = 0; cookie < 12; cookie++) {
      hostile.request(commands.CACHE, cookie, { length: 2 ** 22 });
    }
    await eventually(() => waiting.length >= 4, 'the first came');
    await sleep(30);
    expect(waiting.length).toBeLessThanOrEqual(5);
    intercept = () => undefined;
    for (const resolve of waiting) resolve();
    for (let answered = 0; answered < 12; answered++)
      expect((await hostile.simple()).error).toBe(0);
  });

  test('a client that never reads its replies is not read either, and may come back', async () => {
    hostile.socket.pause();
    const count = 400;
    for (let cookie = 0; cookie < count; cookie++) {
      hostile.request(commands.READ, cookie, { length: 64 * kibi });
    }
    const device = fixture.exports.devices.at(-1);
    await sleep(150);
    const calls = device?.calls.length ?? 0;
    expect(calls).toBeLessThan(50);
    hostile.socket.resume();
    for (let answered = 0; answered < count; answered++) {
      expect((await hostile.simple()).error).toBe(0);
      await hostile.read(64 * kibi);
    }
    expect(device?.calls.length).toBe(count);
  });

  test.each([
    ['client is gone', () => hostile.destroy()],
    ['device is revoked', () => fixture.exports.devices.at(-1)?.revoke()],
  ])('requests that waited when the %s are never handed to the device', async (_, die) => {
    const waiting: (() => void)[] = [];
    intercept = () => new Promise((resolve) => waiting.push(resolve));
    for (let cookie = 0; cookie < 100; cookie++) hostile.write(cookie, 0, Buffer.from([cookie]));
    await eventually(() => waiting.length === 16, 'as many as allowed are in flight');
    const device = fixture.exports.devices.at(-1);
    // The server does not read the socket now, and so can't see its end.
    die();
    await sleep(20);
    intercept = () => undefined;
    for (const resolve of waiting) resolve();
    await sleep(30);
    expect(device?.calls.length).toBe(16);
    expect(device?.closeCalls).toBe(1);
    await hostile.gone();
  });
});
