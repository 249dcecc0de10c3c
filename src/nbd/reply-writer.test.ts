/** ReplyWriter against a real socket: payloads are given back once each, and never before they are sent. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from '../../test/support/nbd-fixture.ts';
import { ReplyWriter } from './reply-writer.ts';

let directory: string;
let server: Server;
let client: Socket;
let peer: Socket;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'reply-writer-'));
  const path = join(directory, 'socket');
  server = createServer({ pauseOnConnect: true }).listen(path);
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  client = connect(path);
  client.on('error', () => undefined);
  [peer] = (await accepted) as [Socket];
  peer.on('error', () => undefined);
});

afterEach(async () => {
  client.destroy();
  peer.destroy();
  server.close();
  await rm(directory, { recursive: true });
});

/** A writer that overwrites each payload as soon as it is given back. */
function poisoningWriter(): { writer: ReplyWriter; givenBack: Buffer[] } {
  const givenBack: Buffer[] = [];
  const giveBack = (payload: Buffer): void => {
    payload.fill(0xee);
    givenBack.push(payload);
  };
  return { writer: new ReplyWriter(peer, () => undefined, giveBack), givenBack };
}

function payloads(lengths: readonly number[]): Buffer[] {
  return lengths.map((length, n) => Buffer.alloc(length, n + 1));
}

describe('ReplyWriter', () => {
  test.each([
    ['small payloads', [512, 4096, 16 * 1024]],
    ['one that starts the socket early', [300 * 1024]],
    ['many of each', Array.from({ length: 64 }, (_, n) => (n % 2 === 0 ? 4096 : 100_000))],
    ['more than the socket takes at once', [4 * 2 ** 20, 4096, 4 * 2 ** 20]],
  ])('sends %s unchanged, and gives each back once', async (_, lengths) => {
    const { writer, givenBack } = poisoningWriter();
    const all = payloads(lengths);
    const expected = Buffer.concat(all);
    for (const [n, payload] of all.entries()) {
      const { bytes, at } = writer.reserve(1);
      bytes[at] = n + 1;
      writer.push(payload);
    }
    writer.flush();
    const received: Buffer[] = [];
    let count = 0;
    client.on('data', (chunk: Buffer) => {
      received.push(Buffer.from(chunk));
      count += chunk.length;
    });
    const whole = expected.length + all.length;
    const isDone = (): boolean => count === whole && givenBack.length === all.length;
    await eventually(isDone, 'all is received and given back');
    expect(new Set(givenBack).size).toBe(all.length);
    let at = 0;
    const bytes = Buffer.concat(received);
    for (const [n, length] of lengths.entries()) {
      const part = bytes.subarray(at + 1, at + 1 + length);
      expect(bytes[at]).toBe(n + 1);
      expect(part.equals(Buffer.alloc(length, n + 1))).toBe(true);
      at += 1 + length;
    }
  });

  test('keeps what it staged until it is sent, through many writes to a slow client', async () => {
    const { writer } = poisoningWriter();
    const count = 3000;
    const recordBytes = 1000;
    const received: Buffer[] = [];
    let receivedBytes = 0;
    client.on('data', (chunk: Buffer) => {
      received.push(Buffer.from(chunk));
      receivedBytes += chunk.length;
    });
    client.pause();
    for (let n = 0; n < count; n++) {
      const { bytes, at } = writer.reserve(recordBytes);
      bytes.fill(n % 256, at, at + recordBytes);
      if (n % 3 === 0) writer.flush();
      if (n % 100 === 0) await new Promise(setImmediate);
      if (n % 1000 === 500) client.resume();
      if (n % 1000 === 900) client.pause();
    }
    writer.flush();
    client.resume();
    await eventually(() => receivedBytes === count * recordBytes, 'all is received');
    const expected = Buffer.alloc(count * recordBytes);
    for (let n = 0; n < count; n++) expected.fill(n % 256, n * recordBytes, (n + 1) * recordBytes);
    expect(Buffer.concat(received).equals(expected)).toBe(true);
  });

  test('does not give back what a dead client never took', async () => {
    const { writer, givenBack } = poisoningWriter();
    client.pause();
    for (const payload of payloads([4 * 2 ** 20, 4 * 2 ** 20])) writer.push(payload);
    writer.close();
    peer.destroy();
    client.destroy();
    await once(peer, 'close');
    expect(givenBack).toEqual([]);
  });
});
