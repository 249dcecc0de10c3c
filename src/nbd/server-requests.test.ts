import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { MemoryStorage, type Call } from '../../test/support/memory-device.ts';
import { eventually, startNbdFixture, type NbdFixture } from '../../test/support/nbd-fixture.ts';
import { RawNbdClient, type Place } from '../../test/support/raw-nbd-client.ts';
import type { LogFields, Logger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import { encodeMetaContextRequest } from './handshake-codec.ts';
import { chunkTypes, commandFlags, commands, nbdErrors, options } from './protocol.ts';

const sizeBytes = 2 ** 20;
const { READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = commands;
const { EINVAL, ENOSPC, EPERM, EIO, EOVERFLOW, ENOTSUP } = nbdErrors;

let fixture: NbdFixture;
let storage: MemoryStorage;
let intercept: (call: Call) => Promise<void> | void;
const clients: RawNbdClient[] = [];

beforeEach(async () => {
  fixture = await startNbdFixture();
  intercept = () => undefined;
  storage = fixture.exports.add('vol', new MemoryStorage(sizeBytes), (call) => intercept(call));
  fixture.exports.add('ro', new MemoryStorage(sizeBytes, { readOnly: true }));
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await fixture.close();
});

async function open(exportName = 'vol', structured = false): Promise<RawNbdClient> {
  const client = await RawNbdClient.open(fixture.address, exportName, { structured });
  clients.push(client);
  return client;
}

async function openWithContext(): Promise<RawNbdClient> {
  const client = await RawNbdClient.connect(fixture.address);
  clients.push(client);
  await client.greet();
  await client.option(options.STRUCTURED_REPLY, Buffer.alloc(0));
  const queries = ['base:allocation'];
  const data = encodeMetaContextRequest({ exportName: 'vol', queries });
  await client.option(options.SET_META_CONTEXT, data);
  await client.go('vol');
  return client;
}

function calls(): Call[] {
  return fixture.exports.devices.at(-1)?.calls ?? [];
}

interface Refused extends Place {
  command: number;
  error: number;
}

describe('refused, and the connection goes on', () => {
  test.each<[string, Refused]>([
    ['an unknown command', { command: 99, error: EINVAL }],
    ['RESIZE', { command: 8, error: EINVAL }],
    ['a read past the end', { command: READ, offset: sizeBytes - 1, length: 2, error: EINVAL }],
    ['a read far past the end', { command: READ, offset: 2 ** 60, length: 1, error: EINVAL }],
    ['a read longer than a payload', { command: READ, length: 2 ** 25 + 1, error: EINVAL }],
    [
      'a read with DF without structured replies',
      { command: READ, length: 1, flags: commandFlags.DF, error: EINVAL },
    ],
    ['a read with an unknown flag', { command: READ, length: 1, flags: 1 << 9, error: EINVAL }],
    ['a trim past the end', { command: TRIM, length: sizeBytes + 1, error: EINVAL }],
    [
      'a trim with NO_HOLE',
      { command: TRIM, length: 1, flags: commandFlags.NO_HOLE, error: EINVAL },
    ],
    ['a cache past the end', { command: CACHE, offset: sizeBytes, length: 1, error: EINVAL }],
    ['zeroes past the end', { command: WRITE_ZEROES, offset: 1, length: sizeBytes, error: ENOSPC }],
    [
      'fast zeroes that must be stored',
      { command: WRITE_ZEROES, length: 1, flags: (1 << 4) | (1 << 1), error: ENOTSUP },
    ],
    ['a flush of a range', { command: FLUSH, offset: 4096, length: 4096, error: EINVAL }],
    ['a block status without a context', { command: BLOCK_STATUS, length: 4096, error: EINVAL }],
  ])('%s', async (_, { command, error, ...place }) => {
    const client = await open();
    client.request(command, 5, place);
    expect(await client.simple()).toEqual({ error, cookie: 5 });
    expect(calls()).toEqual([]);
    client.request(FLUSH, 6, {});
    expect(await client.simple()).toEqual({ error: 0, cookie: 6 });
  });

  test.each<[string, { name?: string; offset?: number; flags?: number; error: number }]>([
    ['past the end', { offset: sizeBytes - 5, error: ENOSPC }],
    ['with an unknown flag', { flags: commandFlags.DF, error: EINVAL }],
    ['to a read-only export', { name: 'ro', error: EPERM }],
  ])('a write %s, whose payload is skipped', async (_, { name, offset = 0, flags = 0, error }) => {
    const client = await open(name);
    client.write(1, offset, Buffer.alloc(300_000, 0x25), flags);
    client.request(READ, 2, { length: 4 });
    expect(await client.simple()).toEqual({ error, cookie: 1 });
    expect(await client.simple()).toEqual({ error: 0, cookie: 2 });
    expect(await client.read(4)).toEqual(Buffer.alloc(4));
    expect(calls().map(({ operation }) => operation)).toEqual(['read']);
  });

  test.each([TRIM, WRITE_ZEROES])('command %i on a read-only export', async (command) => {
    const client = await open('ro');
    client.request(command, 1, { length: 512 });
    expect(await client.simple()).toEqual({ error: EPERM, cookie: 1 });
  });

  test('a read with DF that is too long is EOVERFLOW', async () => {
    storage.sizeBytes = 2 ** 27;
    const client = await open('vol', true);
    client.request(READ, 1, { length: 2 ** 25 + 1, flags: commandFlags.DF });
    const { type, payload } = await client.chunk();
    expect([type, payload.readUInt32BE(0)]).toEqual([chunkTypes.ERROR, EOVERFLOW]);
  });

  test('a device that fails answers its error, with a text in a structured reply', async () => {
    const errors = [
      new VolumeError('OUT_OF_SPACE', 'write: the disk is full'),
      new Error('secret'),
    ];
    intercept = () => {
      const error = errors.shift();
      if (error !== undefined) throw error;
    };
    const client = await open('vol', true);
    client.write(1, 0, Buffer.alloc(512));
    const full = await client.chunk();
    expect(full.payload.readUInt32BE(0)).toBe(ENOSPC);
    expect(full.payload.toString('utf8', 6)).toBe('write: the disk is full');
    client.request(READ, 2, { length: 512 });
    const secret = await client.chunk();
    expect([secret.type, secret.payload.readUInt32BE(0)]).toEqual([chunkTypes.ERROR, EIO]);
    expect(secret.payload.toString('utf8', 6)).toBe('internal error');
  });

  test('each kind of failure is logged once; damage and our own mistakes are errors', async () => {
    const logged: unknown[][] = [];
    const at = (level: string) => (message: string, fields?: LogFields) => {
      if (message === 'request failed') logged.push([level, fields?.['code'], fields?.['offset']]);
    };
    const logger: Logger = {
      ...{ error: at('error'), warn: at('warn'), info: at('info'), debug: at('debug') },
      child: () => logger,
    };
    await fixture.close();
    fixture = await startNbdFixture({ logger });
    const codes = ['OUT_OF_SPACE', 'CORRUPT', 'OUT_OF_SPACE', null, 'CORRUPT', null] as const;
    let next = 0;
    fixture.exports.add('vol', new MemoryStorage(sizeBytes), (call) => {
      const code = codes[next];
      if (call.operation !== 'read' || code === undefined) return;
      next += 1;
      throw code === null ? new Error('a mistake') : new VolumeError(code, 'reading: why');
    });
    const client = await open();
    for (let i = 0; i < codes.length; i++) {
      client.request(READ, i, { offset: i * 512, length: 512 });
      expect((await client.simple()).error).not.toBe(nbdErrors.OK);
    }
    expect(logged).toEqual([
      ['warn', 'OUT_OF_SPACE', 0],
      ['error', 'CORRUPT', 512],
      ['error', null, 1536],
    ]);
  });
});

describe('commands', () => {
  test('flags reach the device', async () => {
    const client = await open();
    client.write(1, 0, Buffer.alloc(10, 1), commandFlags.FUA);
    client.write(2, 10, Buffer.alloc(10, 2));
    client.request(TRIM, 3, { length: 5, flags: commandFlags.FUA });
    client.request(WRITE_ZEROES, 4, { offset: 5, length: 5, flags: commandFlags.NO_HOLE });
    client.request(WRITE_ZEROES, 5, { offset: 10, length: 5, flags: commandFlags.FAST_ZERO });
    client.request(FLUSH, 6, {});
    client.request(CACHE, 7, { length: 20 });
    for (let cookie = 1; cookie <= 7; cookie++) {
      expect(await client.simple()).toEqual({ error: 0, cookie });
    }
    const call = { offset: 0, length: 0, fua: false, allocate: false };
    expect(calls()).toEqual([
      { ...call, operation: 'write', length: 10, fua: true },
      { ...call, operation: 'write', offset: 10, length: 10 },
      { ...call, operation: 'discard', length: 5, fua: true },
      { ...call, operation: 'writeZeroes', offset: 5, length: 5, allocate: true },
      { ...call, operation: 'writeZeroes', offset: 10, length: 5 },
      { ...call, operation: 'flush' },
      { ...call, operation: 'cache', length: 20 },
    ]);
  });

  test('nothing of length 0 reaches the device but the promise of FUA', async () => {
    const client = await open();
    client.write(1, 0, Buffer.alloc(0));
    client.request(READ, 2, { offset: sizeBytes });
    client.request(TRIM, 3, { flags: commandFlags.FUA });
    for (let count = 0; count < 3; count++) expect((await client.simple()).error).toBe(0);
    expect(calls().map(({ operation }) => operation)).toEqual(['flush']);
  });

  test('a slow request does not hold up others, and replies carry their cookies', async () => {
    let release: () => void = () => undefined;
    intercept = ({ operation }) =>
      operation === 'flush' ? new Promise((resolve) => (release = resolve)) : undefined;
    const client = await open();
    client.request(FLUSH, 1, {});
    client.write(2, 0, Buffer.alloc(512, 9));
    expect((await client.simple()).cookie).toBe(2);
    release();
    expect((await client.simple()).cookie).toBe(1);
  });

  test('requests of one packet reach the device in their order, before any is answered', async () => {
    const client = await open();
    client.socket.cork();
    for (let cookie = 0; cookie < 50; cookie++)
      client.write(cookie, cookie % 3, Buffer.from([cookie]));
    client.socket.uncork();
    for (let cookie = 0; cookie < 50; cookie++) expect((await client.simple()).cookie).toBe(cookie);
    expect(storage.read(0, 3)[0]).toEqual(Buffer.from([48, 49, 47]));
  });

  test('a payload stays as it came while its write waits, whatever comes after it', async () => {
    const waiting: (() => void)[] = [];
    intercept = () => new Promise((resolve) => waiting.push(resolve));
    const client = await open();
    const sizes = [700, 4096, 70_000, 200_000];
    let offset = 0;
    const expected: Buffer[] = [];
    for (let cookie = 0; cookie < 20; cookie++) {
      const payload = Buffer.alloc(sizes[cookie % sizes.length] ?? 1, cookie + 1);
      if (offset + payload.length > sizeBytes) break;
      expected.push(payload);
      client.write(cookie, offset, payload);
      offset += payload.length;
    }
    await eventually(() => waiting.length === expected.length, 'all writes came');
    for (const resolve of waiting) resolve();
    for (let count = 0; count < expected.length; count++) await client.simple();
    expect(Buffer.concat(storage.read(0, offset)).equals(Buffer.concat(expected))).toBe(true);
  });

  test('a volume that grows takes requests past its old size on a live connection', async () => {
    const client = await open();
    client.request(READ, 1, { offset: sizeBytes, length: 512 });
    expect((await client.simple()).error).toBe(EINVAL);
    storage.sizeBytes *= 2;
    client.write(2, sizeBytes, Buffer.alloc(512, 3));
    expect((await client.simple()).error).toBe(0);
    client.request(READ, 3, { offset: sizeBytes, length: 512 });
    expect((await client.simple()).error).toBe(0);
    expect(await client.read(512)).toEqual(Buffer.alloc(512, 3));
  });
});

describe('structured replies', () => {
  test('a read is data and holes in order', async () => {
    storage.write(4096, Buffer.alloc(8192, 1));
    const client = await open('vol', true);
    client.request(READ, 1, { length: 4 * 4096 });
    const chunks = [await client.chunk(), await client.chunk(), await client.chunk()];
    expect(chunks.map(({ type, done }) => [type, done])).toEqual([
      [chunkTypes.OFFSET_HOLE, false],
      [chunkTypes.OFFSET_DATA, false],
      [chunkTypes.OFFSET_HOLE, true],
    ]);
    expect(chunks[0]?.payload.toString('hex')).toBe('000000000000000000001000');
    expect(chunks[1]?.payload.readUInt32BE(4)).toBe(4096);
    expect(chunks[1]?.payload.subarray(8)).toEqual(Buffer.alloc(8192, 1));
    expect(chunks[2]?.payload.toString('hex')).toBe('000000000000300000001000');
  });

  test('DF makes it one chunk, and length 0 none', async () => {
    storage.write(4096, Buffer.alloc(4096, 1));
    const client = await open('vol', true);
    client.request(READ, 1, { length: 3 * 4096, flags: commandFlags.DF });
    const chunk = await client.chunk();
    expect([chunk.type, chunk.done, chunk.payload.length]).toEqual([1, true, 8 + 3 * 4096]);
    client.request(READ, 2, {});
    expect(await client.chunk()).toMatchObject({ type: chunkTypes.NONE, done: true });
  });

  test('a block status covers the range, or one extent with REQ_ONE', async () => {
    storage.write(4096, Buffer.alloc(8192, 1));
    const client = await openWithContext();
    client.request(BLOCK_STATUS, 1, { length: 20_000 });
    const all = await client.chunk();
    expect(all).toMatchObject({ type: chunkTypes.BLOCK_STATUS, done: true });
    expect(all.payload.toString('hex')).toBe(
      '00000001' + '0000100000000003' + '0000200000000000' + '00001e2000000003',
    );
    client.request(BLOCK_STATUS, 2, { offset: 5000, length: 15_000, flags: commandFlags.REQ_ONE });
    expect((await client.chunk()).payload.toString('hex')).toBe('00000001' + '00001c7800000000');
    client.request(BLOCK_STATUS, 3, {});
    expect((await client.chunk()).type).toBe(chunkTypes.ERROR);
  });
});
