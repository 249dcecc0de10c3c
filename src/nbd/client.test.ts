import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectNbd, type NbdClient } from './client.ts';
import { encodeGreeting, encodeInfoExport, encodeOptionReply } from './handshake-codec.ts';
import { optionReplies, options } from './protocol.ts';
import type { NbdUri } from './uri.ts';

/** A server that says what it is told to, whatever it is asked. */
let folder: string;
let server: Server;
let sockets: Socket[];
let script: Buffer[];
let target: NbdUri;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nbd-'));
  sockets = [];
  script = [];
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.on('data', () => undefined);
    for (const bytes of script) socket.write(bytes);
  });
  const path = join(folder, 'server.sock');
  server.listen(path);
  await once(server, 'listening');
  target = { address: { kind: 'unix', path }, exportName: 'vol' };
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

const empty = Buffer.alloc(0);
const { ACK, INFO, ERR_UNSUP, ERR_UNKNOWN, ERR_POLICY, ERR_TLS_REQD } = optionReplies;
const noStructured = encodeOptionReply(options.STRUCTURED_REPLY, ERR_UNSUP, empty);
const goExport = encodeOptionReply(
  options.GO,
  INFO,
  encodeInfoExport({ sizeBytes: 4096, readOnly: false }),
);
const goAck = encodeOptionReply(options.GO, ACK, empty);
const opening = [encodeGreeting(), noStructured, goExport, goAck];

const connect = async (): Promise<NbdClient> => await connectNbd(target, { timeoutMs: 200 });

describe('connecting', () => {
  const longReply = encodeOptionReply(options.STRUCTURED_REPLY, ACK, empty);
  longReply.writeUInt32BE(0xffff_ffff, 16);
  const oldstyle = Buffer.concat([Buffer.from('NBDMAGIC'), Buffer.alloc(200)]);
  const hugeSize = encodeInfoExport({ sizeBytes: 2 ** 60, readOnly: false });
  const refuse = (type: number, text: string): Buffer[] => [
    encodeGreeting(),
    noStructured,
    encodeOptionReply(options.GO, type, Buffer.from(text)),
  ];

  test.each<[string, string, Buffer[]]>([
    ['says nothing', 'UNAVAILABLE', []],
    ['says half', 'UNAVAILABLE', [encodeGreeting().subarray(0, 9)]],
    ['is no NBD server', 'PROTOCOL_ERROR', [Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')]],
    ['speaks oldstyle', 'PROTOCOL_ERROR', [oldstyle]],
    [
      'has no fixed newstyle',
      'NOT_CAPABLE',
      [Buffer.from('4e42444d4147494349484156454f50540000', 'hex')],
    ],
    ['answers with a wrong magic', 'PROTOCOL_ERROR', [encodeGreeting(), Buffer.alloc(20)]],
    ['answers another option', 'PROTOCOL_ERROR', [encodeGreeting(), goAck]],
    ['answers 4 GiB', 'PROTOCOL_ERROR', [encodeGreeting(), longReply]],
    [
      'never stops answering',
      'PROTOCOL_ERROR',
      [encodeGreeting(), noStructured, ...Array<Buffer>(300).fill(goExport)],
    ],
    ['floods', 'PROTOCOL_ERROR', [Buffer.from('NBD'), Buffer.alloc(2 ** 22)]],
    ['tells no size', 'PROTOCOL_ERROR', [encodeGreeting(), noStructured, goAck]],
    [
      'tells an impossible size',
      'PROTOCOL_ERROR',
      [encodeGreeting(), noStructured, encodeOptionReply(options.GO, INFO, hugeSize), goAck],
    ],
    [
      'tells half an information',
      'PROTOCOL_ERROR',
      [encodeGreeting(), noStructured, encodeOptionReply(options.GO, INFO, Buffer.alloc(3)), goAck],
    ],
    ['does not know the export', 'VOLUME_NOT_FOUND', refuse(ERR_UNKNOWN, 'no such volume')],
    ['does not want to', 'VOLUME_IN_USE', refuse(ERR_POLICY, 'in use')],
    ['wants TLS', 'NOT_CAPABLE', refuse(ERR_TLS_REQD, '')],
  ])('to a server that %s is %s', async (_, code, bytes) => {
    script = bytes;
    await expect(connect()).rejects.toMatchObject({ code });
  });

  test('to nobody is UNAVAILABLE', async () => {
    const address = { kind: 'unix', path: join(folder, 'none') } as const;
    await expect(connectNbd({ address, exportName: '' })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });

  test('ends when it is aborted', async () => {
    const signal = AbortSignal.timeout(20);
    await expect(connectNbd(target, { signal })).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(connectNbd(target, { signal })).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('falls back to EXPORT_NAME', async () => {
    const noGo = encodeOptionReply(options.GO, ERR_UNSUP, empty);
    const facts = Buffer.from('00000000000010000003', 'hex');
    script = [encodeGreeting(), noStructured, noGo, facts];
    const client = await connect();
    expect([client.sizeBytes, client.readOnly]).toEqual([4096, true]);
    client.destroy();
    await client.ended;
  });
});

describe('a connected client', () => {
  let client: NbdClient;

  beforeEach(async () => {
    script = opening;
    client = await connectNbd(target, { timeoutMs: 1000, maxInFlight: 3 });
  });

  afterEach(async () => {
    client.destroy();
    await client.ended;
  });

  test('fails everything when the server breaks the protocol', async () => {
    const waiting = Promise.allSettled([client.read(0, 8), client.flush()]);
    sockets[0]?.write(Buffer.alloc(64, 0x55));
    for (const result of await waiting) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'PROTOCOL_ERROR' } });
    }
    await expect(client.flush()).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
    await client.ended;
  });

  test('fails everything when the server leaves', async () => {
    const waiting = client.read(0, 8);
    sockets[0]?.end();
    await expect(waiting).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await client.ended;
  });

  test('takes no more requests than it was told to', async () => {
    const waiting = [client.flush(), client.flush(), client.flush()].map((each) =>
      expect(each).rejects.toMatchObject({ code: 'UNAVAILABLE' }),
    );
    await expect(client.flush()).rejects.toMatchObject({ code: 'LIMIT_REACHED' });
    client.destroy();
    await Promise.all(waiting);
  });

  test.each<[string, () => Promise<unknown>, string]>([
    ['a negative offset', () => client.read(-1, 1), 'INVALID_ARGUMENT'],
    ['half a byte', () => client.read(0, 0.5), 'INVALID_ARGUMENT'],
    ['a read over the payload limit', () => client.read(0, 2 ** 25 + 1), 'INVALID_ARGUMENT'],
    ['a trim of 4 GiB', () => client.trim(0, 2 ** 32), 'INVALID_ARGUMENT'],
    ['a block status without a context', () => client.blockStatus(0, 1), 'NOT_CAPABLE'],
    ['an aborted read', () => client.read(0, 1, { signal: AbortSignal.abort() }), 'UNAVAILABLE'],
  ])('does not send %s', async (_, act, code) => {
    await expect(act()).rejects.toMatchObject({ code });
    expect(client.failure).toBeNull();
  });

  test('may disconnect more than once', async () => {
    await Promise.all([client.disconnect(), client.disconnect()]);
    await client.disconnect();
    await expect(client.flush()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });
});
