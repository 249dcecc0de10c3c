/**
 * A client that gave a connection up sends its requests again on a new one. The server, which was away from its
 * sockets in between, finds both at once, and must not do the old requests over the new ones.
 */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { MemoryStorage } from '../../test/support/memory-device.ts';
import { eventually, startNbdFixture, type NbdFixture } from '../../test/support/nbd-fixture.ts';
import { encodeInfoRequest, encodeOption } from './handshake-codec.ts';
import { commands, options } from './protocol.ts';
import { encodeRequest } from './transmission-codec.ts';

const blockBytes = 4096;
const storage = new MemoryStorage(2 ** 20);
let fixture: NbdFixture;

beforeEach(async () => {
  fixture = await startNbdFixture();
  fixture.exports.add('vol', storage);
});
afterEach(async () => {
  await fixture.close();
});

/** A thread of its own sends while this one, and with it the server, stands still. */
const sender = `
const { connect } = require('node:net');
const { parentPort, workerData } = require('node:worker_threads');
const { path, flags, go, older, newer, waitMs } = workerData;
const open = (...first) => new Promise((resolve) => {
  const socket = connect(path, () => { for (const bytes of first) socket.write(bytes); });
  socket.on('error', () => undefined);
  let received = 0;
  socket.on('data', (chunk) => {
    received += chunk.length;
    if (received > 18 + 40 || first.length === 1) resolve(socket);
  });
});
(async () => {
  const a = await open(flags, go);
  const b = await open(flags);
  parentPort.postMessage('ready');
  await new Promise((resolve) => setTimeout(resolve, waitMs));
  b.write(Buffer.concat([go, newer]));
  a.end(older);
  setTimeout(() => b.destroy(), 10 * waitMs);
})();
`;

function write(cookie: number, index: number, text: string): Buffer {
  const place = { offset: index * blockBytes, length: blockBytes };
  return Buffer.concat([
    encodeRequest({
      command: commands.WRITE,
      flags: 0,
      cookieHigh: 0,
      cookieLow: cookie,
      ...place,
    }),
    Buffer.alloc(blockBytes, text),
  ]);
}

test('requests of an older connection are done before the new one begins', async () => {
  const blocks = 45;
  const indexes = Array.from({ length: blocks }, (_, index) => index);
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(3);
  const goData = encodeInfoRequest({ exportName: 'vol', infos: [] });
  const { address } = fixture;
  const worker = new Worker(sender, {
    eval: true,
    workerData: {
      path: address.kind === 'unix' ? address.path : '',
      flags,
      go: encodeOption(options.GO, goData),
      older: Buffer.concat(indexes.map((index) => write(index, index, 'old'))),
      newer: Buffer.concat(indexes.map((index) => write(index, index, 'new'))),
      waitMs: 100,
    },
  });
  await once(worker, 'message');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
  const expected = Buffer.alloc(blockBytes, 'new');
  await eventually(
    () => fixture.exports.devices.flatMap(({ calls }) => calls).length === 2 * blocks,
    'all is written',
  );
  for (const index of indexes) {
    expect(Buffer.concat(storage.read(index * blockBytes, blockBytes)).equals(expected)).toBe(true);
  }
  await worker.terminate();
});
