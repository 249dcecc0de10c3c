import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from '../../test/support/nbd-fixture.ts';
import { receiveInto } from './receiving-socket.ts';

let folder: string;
let server: Server;
let client: Socket;
let accepted: Socket;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nbd-'));
  server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
  const path = join(folder, 'socket');
  server.listen(path);
  await once(server, 'listening');
  const connected = once(server, 'connection') as Promise<[Socket]>;
  client = createConnection({ path });
  [accepted] = await connected;
});

afterEach(async () => {
  client.destroy();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

/** Node without the handle that the fast way needs. */
function withoutHandle(socket: Socket): Socket {
  return new Proxy(socket, { has: (target, key) => key !== '_handle' && key in target });
}

test.each([
  ['into our memory', (socket: Socket) => socket, true],
  ["by 'data' events", withoutHandle, false],
])(
  'bytes come %s, in order, when the socket is resumed, until its end',
  async (_, wrap, lentOnes) => {
    const memory = Buffer.alloc(1024);
    const chunks: Buffer[] = [];
    const lentFlags = new Set<boolean>();
    const socket = receiveInto(wrap(accepted), {
      next: () => memory,
      receive: (chunk, lent) => {
        lentFlags.add(lent);
        expect(chunk.buffer === memory.buffer).toBe(lent);
        chunks.push(Buffer.from(chunk));
        socket.pause();
        setImmediate(() => socket.resume());
      },
    });
    let ended = false;
    socket.on('end', () => (ended = true));
    const sent = Buffer.from(Array.from({ length: 100_000 }, (_each, index) => index % 251));
    client.end(sent);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(chunks).toEqual([]);
    socket.resume();
    await eventually(() => ended, 'the end is seen');
    expect(Buffer.concat(chunks).equals(sent)).toBe(true);
    expect([...lentFlags]).toEqual([lentOnes]);
    socket.destroy();
  },
);
