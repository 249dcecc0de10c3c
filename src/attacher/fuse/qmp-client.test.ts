import { afterEach, describe, expect, test } from '@jest/globals';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { QmpClient } from './qmp-client.ts';

const greeting = '{"QMP": {"version": {}, "capabilities": []}}\r\n';
const options = { clock: systemClock, timeoutMs: 300 };

let server: Server | undefined;
let folder = '';
const sockets = new Set<Socket>();

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => (server === undefined ? resolve(null) : server.close(resolve)));
  server = undefined;
  await rm(folder, { recursive: true, force: true });
});

/** Serves a script: greets with `hello`, and answers each command by `answer` (null: not at all). */
async function serve(
  hello: string | null,
  answer: (command: string, id: number) => string | null,
): Promise<string> {
  folder = await mkdtemp(join(tmpdir(), 'qmp-'));
  const path = join(folder, 's');
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    if (hello !== null) socket.write(hello);
    socket.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trim().split('\n')) {
        const { execute, id } = JSON.parse(line) as { execute: string; id: number };
        const reply =
          execute === 'qmp_capabilities' ? `{"return": {}, "id": ${id}}\n` : answer(execute, id);
        if (reply !== null) socket.write(reply);
      }
    });
  });
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  return path;
}

describe('QmpClient', () => {
  test('skips events, joins torn lines and returns the answer', async () => {
    const path = await serve(
      greeting,
      (_, id) => `{"event": "X"}\n{"return": {"a": 1}, "id": ${id}}\r\n`,
    );
    const client = await QmpClient.open(path, options);
    expect(await client.execute('query')).toEqual({ a: 1 });
    expect(await client.execute('query')).toEqual({ a: 1 });
    client.close();
  });

  test('tells a refused command from a lost one', async () => {
    const path = await serve(greeting, (command, id) =>
      command === 'bad'
        ? `{"error": {"class": "GenericError", "desc": "no"}, "id": ${id}}\n`
        : null,
    );
    const client = await QmpClient.open(path, options);
    await expect(client.execute('bad')).rejects.toMatchObject({
      code: 'INTERNAL',
      message: 'QMP bad: no',
    });
    await expect(client.execute('silent')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(client.execute('after')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  const badAnswers = [
    ['no JSON', 'hello\n'],
    ['another id', '{"return": {}, "id": 99}\n'],
    ['no object', '[]\n'],
    ['neither result nor error', '{"id": 2}\n'],
    ['an endless line', 'x'.repeat(2 * 1024 * 1024)],
  ] as const;
  test.each(badAnswers)('refuses %s', async (_, text) => {
    const path = await serve(greeting, () => text);
    const client = await QmpClient.open(path, { ...options, timeoutMs: 3000 });
    await expect(client.execute('query')).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
  });

  test('refuses a peer that is no QMP server', async () => {
    const path = await serve('{"hello": 1}\n', () => null);
    await expect(QmpClient.open(path, options)).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
  });

  test('gives up on a peer that does not greet', async () => {
    const path = await serve(null, () => null);
    await expect(QmpClient.open(path, options)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('is UNAVAILABLE when nobody listens', async () => {
    await expect(QmpClient.open('/nonexistent/qmp', options)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });
});
