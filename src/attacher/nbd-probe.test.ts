import { afterEach, describe, expect, test } from '@jest/globals';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { systemClock } from '../base/clock.ts';
import { optionReplies } from '../nbd/protocol.ts';
import { probeExport, type ExportProbe } from './nbd-probe.ts';

let server: Server | undefined;
const sockets = new Set<Socket>();

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => (server === undefined ? resolve(null) : server.close(resolve)));
  server = undefined;
});

const greeting = Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1');

function reply(type: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt32BE(0x0003e889, 0);
  header.writeUInt32BE(0x045565a9, 4);
  header.writeUInt32BE(6, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(payload.length, 16);
  return Buffer.concat([header, payload]);
}

function exportInfo(sizeBytes: number, flags: number): Buffer {
  const payload = Buffer.alloc(12);
  payload.writeBigUInt64BE(BigInt(sizeBytes), 2);
  payload.writeUInt16BE(flags, 10);
  return reply(optionReplies.INFO, payload);
}

const ack = reply(optionReplies.ACK, Buffer.alloc(0));

/** Probes a server that says `hello` at once and `answer` after the first bytes from us. */
async function probe(
  hello: Buffer,
  answer: Buffer | null,
): Promise<{ result: ExportProbe; sent: Buffer }> {
  let sent = Buffer.alloc(0);
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.write(hello);
    socket.on('data', (chunk) => {
      if (sent.length === 0) {
        if (answer === null) socket.end();
        else socket.write(answer);
      }
      sent = Buffer.concat([sent, chunk]);
    });
  });
  await new Promise<void>((resolve) => server?.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const uri = `nbd://127.0.0.1:${port}/v%237`;
  const result = await probeExport(uri, { clock: systemClock, timeoutMs: 400 });
  return { result, sent };
}

describe('probeExport', () => {
  test('asks for the export by its unescaped name', async () => {
    const { result, sent } = await probe(greeting, Buffer.concat([exportInfo(4096, 1), ack]));
    expect(result).toEqual({ kind: 'offered', sizeBytes: 4096, readOnly: false });
    expect(sent.readUInt32BE(0)).toBe(3);
    expect(sent.toString('latin1', 4, 12)).toBe('IHAVEOPT');
    expect(sent.readUInt32BE(12)).toBe(6);
    expect(sent.toString('utf8', 24, 27)).toBe('v#7');
  });

  test('sees that an export is read-only', async () => {
    const { result } = await probe(greeting, Buffer.concat([exportInfo(2 ** 40, 3), ack]));
    expect(result).toEqual({ kind: 'offered', sizeBytes: 2 ** 40, readOnly: true });
  });

  test('tells a refusal with the server’s words', async () => {
    const { result } = await probe(
      greeting,
      reply(optionReplies.ERR_POLICY, Buffer.from('fenced')),
    );
    expect(result).toEqual({ kind: 'refused', reason: 'fenced', reply: optionReplies.ERR_POLICY });
  });

  test('counts a server that shuts down as away', async () => {
    const { result } = await probe(greeting, reply(optionReplies.ERR_SHUTDOWN, Buffer.alloc(0)));
    expect(result.kind).toBe('unreachable');
  });

  const hugeReply = reply(optionReplies.INFO, Buffer.alloc(0));
  hugeReply.writeUInt32BE(0xffff_ffff, 16);
  const bad: { name: string; hello: Buffer; answer: Buffer | null }[] = [
    { name: 'greets wrongly', hello: Buffer.from('HTTP/1.1 400 Bad Request\r\n'), answer: ack },
    { name: 'says nothing', hello: Buffer.alloc(0), answer: ack },
    { name: 'stops within a greeting', hello: greeting.subarray(0, 10), answer: ack },
    { name: 'closes instead of an answer', hello: greeting, answer: null },
    { name: 'describes nothing', hello: greeting, answer: ack },
    { name: 'announces a huge reply', hello: greeting, answer: hugeReply },
    { name: 'answers garbage', hello: greeting, answer: Buffer.alloc(64, 'x') },
    {
      name: 'never ends',
      hello: greeting,
      answer: Buffer.concat(Array(100).fill(exportInfo(1, 1)) as Buffer[]),
    },
  ];
  test.each(bad)('calls a server that $name unreachable, in time', async ({ hello, answer }) => {
    const started = performance.now();
    const { result } = await probe(hello, answer);
    expect(result.kind).toBe('unreachable');
    expect(performance.now() - started).toBeLessThan(2000);
  });

  test.each(['nbd+unix:///v?socket=/nonexistent/s', 'nbd://127.0.0.1:1/v'])(
    '%s is unreachable',
    async (uri) => {
      const result = await probeExport(uri, { clock: systemClock, timeoutMs: 1000 });
      expect(result.kind).toBe('unreachable');
    },
  );

  test('refuses a bad URI', async () => {
    const wait = { clock: systemClock, timeoutMs: 100 };
    await expect(probeExport('nonsense', wait)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});
