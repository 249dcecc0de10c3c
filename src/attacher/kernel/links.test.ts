import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, Socket, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { closeDescriptor, duplicate } from '../../base/ffi-sockets.ts';
import { encodeGreeting, encodeInfoExport, encodeOptionReply } from '../../nbd/handshake-codec.ts';
import { commands, optionReplies, options, simpleReplyMagic } from '../../nbd/protocol.ts';
import { encodeRequest } from '../../nbd/transmission-codec.ts';
import { formatNbdUri } from '../../nbd/uri.ts';
import { MemoryStorage } from '../../../test/support/memory-device.ts';
import { eventually, startNbdFixture, type NbdFixture } from '../../../test/support/nbd-fixture.ts';
import { listSocketInodes, openLink, openLinks, parseUnixSockets, type Link } from './links.ts';

const wait = { clock: systemClock, timeoutMs: 2000 };
const sizeBytes = 1024 * 1024;

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

describe('a link', () => {
  let fixture: NbdFixture;
  let links: Link[];

  beforeEach(async () => {
    fixture = await startNbdFixture();
    const storage = new MemoryStorage(sizeBytes);
    storage.write(4096, Buffer.alloc(512, 'linked'));
    fixture.exports.add('vol', storage);
    links = [];
  });
  afterEach(async () => {
    for (const link of links) link.close();
    await fixture.close();
  });

  async function open(): Promise<Link> {
    const { link } = await openLink(fixture.uri('vol'), wait);
    links.push(link);
    return link;
  }

  test('speaks NBD on its raw descriptor', async () => {
    const { link, agreement } = await openLink(fixture.uri('vol'), wait);
    links.push(link);
    expect(agreement).toMatchObject({ sizeBytes, structuredReplies: false });
    const kernel = new Socket({ fd: duplicate(link.fd), readable: true, writable: true });
    try {
      const request = {
        command: commands.READ,
        flags: 0,
        cookieHigh: 0,
        cookieLow: 7,
        offset: 4096,
        length: 512,
      };
      kernel.write(encodeRequest(request));
      const chunks: Buffer[] = [];
      kernel.on('data', (chunk: Buffer) => chunks.push(chunk));
      await eventually(() => Buffer.concat(chunks).length === 16 + 512, 'a reply');
      const reply = Buffer.concat(chunks);
      expect([reply.readUInt32BE(0), reply.readUInt32BE(4)]).toEqual([simpleReplyMagic, 0]);
      expect(reply.subarray(16)).toEqual(Buffer.alloc(512, 'linked'));
    } finally {
      kernel.destroy();
    }
  });

  test('lives until the server goes', async () => {
    const link = await open();
    expect(link.isDead).toBe(false);
    await fixture.server.close({ graceMs: 0, drainMs: 0 });
    await eventually(() => link.isDead, 'the end of the link');
  });

  test('is dead once it was cut or closed', async () => {
    const [cut, closed] = [await open(), await open()];
    cut.cut();
    expect(cut.isDead).toBe(true);
    closed.close();
    closed.close();
    closed.cut();
    expect(closed.isDead).toBe(true);
    await eventually(() => fixture.server.clientCount === 0, 'the server to notice');
  });

  test('is listed while somebody holds the socket', async () => {
    const link = await open();
    expect((await listSocketInodes()).has(link.inode)).toBe(true);
    const kernel = duplicate(link.fd);
    link.close();
    expect((await listSocketInodes()).has(link.inode)).toBe(true);
    closeDescriptor(kernel);
    expect((await listSocketInodes()).has(link.inode)).toBe(false);
  });

  test('takes one descriptor, and none when it is not made', async () => {
    await open(); // what Node opens once is open
    const before = descriptors();
    const link = await open();
    // The server's end is in this process, too.
    expect(descriptors()).toBe(before + 2);
    link.close();
    await eventually(() => descriptors() === before, 'the server to close its end');
    await expect(openLinks(fixture.uri('other'), 3, wait)).rejects.toMatchObject({
      code: 'VOLUME_NOT_FOUND',
    });
    await eventually(() => descriptors() === before, 'the server to close its ends');
  });

  test('comes with others or not at all', async () => {
    await open();
    await fixture.close();
    fixture = await startNbdFixture({ limits: { connections: 2 } });
    fixture.exports.add('vol', new MemoryStorage(sizeBytes));
    const before = descriptors();
    await expect(openLinks(fixture.uri('vol'), 3, wait)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    // Those of the server end when it notices.
    await eventually(() => descriptors() === before, 'all descriptors to be closed');
    const opened = await openLinks(fixture.uri('vol'), 2, wait);
    links.push(...opened.map(({ link }) => link));
    expect(new Set(links.map(({ inode }) => inode)).size).toBe(3);
  });
});

describe('no link', () => {
  let folder: string;
  let server: Server | null;
  let sockets: Socket[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'link-'));
    [server, sockets] = [null, []];
  });
  afterEach(async () => {
    for (const socket of sockets) socket.destroy();
    const open = server;
    if (open !== null) await new Promise((resolve) => open.close(resolve));
    await rm(folder, { recursive: true, force: true });
  });

  const path = (): string => join(folder, 'sock');
  const uri = (): string =>
    formatNbdUri({ address: { kind: 'unix', path: path() }, exportName: 'vol' });

  async function serve(backlog: number, ...script: Buffer[]): Promise<void> {
    server = createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => undefined);
      socket.on('data', () => undefined);
      socket.write(Buffer.concat(script));
    });
    server.listen({ path: path(), backlog });
    await once(server, 'listening');
  }

  async function refused(code: string, timeoutMs = 2000): Promise<void> {
    const attempt = openLink(uri(), { clock: systemClock, timeoutMs });
    await expect(attempt).rejects.toMatchObject({ code });
    for (const socket of sockets) socket.destroy();
    await eventually(() => descriptors() === before, 'all descriptors to be closed');
  }

  let before: number;
  const go = [
    encodeGreeting(),
    encodeOptionReply(
      options.GO,
      optionReplies.INFO,
      encodeInfoExport({ sizeBytes: 4096, readOnly: false }),
    ),
    encodeOptionReply(options.GO, optionReplies.ACK, Buffer.alloc(0)),
  ];

  test('without a server', async () => {
    before = descriptors();
    await refused('UNAVAILABLE');
  });

  test.each([
    ['that says nothing', 'UNAVAILABLE', [Buffer.alloc(0)]],
    ['that is none of NBD', 'PROTOCOL_ERROR', [Buffer.alloc(64, 'x')]],
    ['that sends what nobody asked for', 'PROTOCOL_ERROR', [...go, Buffer.alloc(16)]],
  ])('to a server %s', async (_name, code, script) => {
    await serve(8, ...script);
    before = descriptors();
    await refused(code, 200);
  });

  test('to a server that stands still with a full backlog', async () => {
    await serve(1);
    // Nobody accepts while this turn of the event loop lasts.
    const attempts = [0, 1, 2, 3].map(() =>
      openLink(uri(), { clock: systemClock, timeoutMs: 100 }),
    );
    const results = await Promise.allSettled(attempts);
    const messages = results.map((result) =>
      result.status === 'rejected' ? String(result.reason) : 'opened',
    );
    expect(messages.join('\n')).toContain('EAGAIN');
    expect(messages).not.toContain('opened');
  });

  test('over TCP', async () => {
    const attempt = openLink('nbd://127.0.0.1:1/vol', wait);
    await expect(attempt).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
  });

  test('to a socket whose path is too long', async () => {
    const long = formatNbdUri({
      address: { kind: 'unix', path: `/${'x'.repeat(107)}` },
      exportName: 'vol',
    });
    await expect(openLink(long, wait)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

test('reads /proc/net/unix', () => {
  const text = [
    'Num       RefCount Protocol Flags    Type St Inode Path',
    '0000000000000000: 00000002 00000000 00010000 0001 01 16387 /run/a socket',
    '0000000000000000: 00000003 00000000 00000000 0001 03     7',
    '0000000000000000: 00000003 00000000 00000000 0001 03 0123456789 @abstract',
    '0000000000000000: 00000003',
    'junk junk junk junk junk junk junk',
    '',
  ].join('\n');
  expect([...parseUnixSockets(text)]).toEqual(['16387', '7', '0123456789']);
  expect(parseUnixSockets('').size).toBe(0);
});
