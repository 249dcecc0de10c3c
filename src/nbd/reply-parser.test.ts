import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { VolumeError } from '../volumes/errors.ts';
import { PendingRequests, type Answer } from './pending-requests.ts';
import { chunkTypes, commands, nbdErrors, writeUint64 } from './protocol.ts';
import { ReplyParser } from './reply-parser.ts';
import {
  encodeAllocation,
  encodeErrorPayload,
  writeChunkHeader,
  writeSimpleReply,
} from './transmission-codec.ts';

interface Settled {
  error: VolumeError | null;
  answer: Answer;
}

/** A client's half: requests with cookies 1, 2, ... and what became of them. */
class Client {
  readonly settled: (Settled | null)[] = [];
  readonly pending = new PendingRequests(1);
  readonly parser: ReplyParser;

  constructor({ structured = true } = {}) {
    this.parser = new ReplyParser(this.pending, structured);
  }

  ask(command: number, offset: number, length: number): this {
    const index = this.settled.push(null) - 1;
    const settle = (error: VolumeError | null, answer: Answer): void => {
      expect(this.settled[index]).toBeNull();
      this.settled[index] = { error, answer };
    };
    this.pending.add({ what: 'ask', command, offset, length, settle });
    return this;
  }
}

const at = (cookieLow: number): { cookieHigh: number; cookieLow: number } => ({
  cookieHigh: 0,
  cookieLow,
});

function simple(cookie: number, error = 0, data = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(16);
  writeSimpleReply(bytes, 0, at(cookie), error);
  return Buffer.concat([bytes, data]);
}

function chunk(cookie: number, type: number, done: boolean, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(20);
  writeChunkHeader(bytes, 0, at(cookie), { type, done, payloadBytes: payload.length });
  return Buffer.concat([bytes, payload]);
}

function place(offset: number): Buffer {
  const bytes = Buffer.alloc(8);
  writeUint64(bytes, offset, 0);
  return bytes;
}

function data(cookie: number, offset: number, text: string, done = true): Buffer {
  const payload = Buffer.concat([place(offset), Buffer.from(text)]);
  return chunk(cookie, chunkTypes.OFFSET_DATA, done, payload);
}

function hole(cookie: number, offset: number, length: number, done = true): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32BE(length);
  return chunk(cookie, chunkTypes.OFFSET_HOLE, done, Buffer.concat([place(offset), size]));
}

const { READ, WRITE, BLOCK_STATUS, FLUSH } = commands;
const extents = [
  { lengthBytes: 4096, hole: true },
  { lengthBytes: 512, hole: false },
];

/** Two reads, a write and a block status, answered out of order and interleaved. */
const session = Buffer.concat([
  data(2, 104, 'efgh', false),
  simple(3),
  data(1, 0, 'whole'),
  hole(2, 108, 4, false),
  chunk(4, chunkTypes.BLOCK_STATUS, true, encodeAllocation(1, extents)),
  data(2, 100, 'abcd', false),
  chunk(2, chunkTypes.NONE, true, Buffer.alloc(0)),
  chunk(5, chunkTypes.ERROR, true, encodeErrorPayload(nbdErrors.ENOSPC, 'the disk is full')),
]);

function runSession(pieces: Buffer[]): void {
  const client = new Client().ask(READ, 0, 5).ask(READ, 100, 12).ask(WRITE, 0, 9);
  client.ask(BLOCK_STATUS, 0, 8192).ask(FLUSH, 0, 0);
  for (const piece of pieces) client.parser.parse(piece);
  const [first, second, third, fourth, fifth] = client.settled;
  expect(first?.answer.data.toString()).toBe('whole');
  expect(second?.answer.data.toString()).toBe('abcdefgh\0\0\0\0');
  expect(third?.error).toBeNull();
  expect(fourth?.answer.extents).toEqual([
    { lengthBytes: 4096, hole: true, zero: true },
    { lengthBytes: 512, hole: false, zero: false },
  ]);
  expect(fifth?.error).toMatchObject({ code: 'OUT_OF_SPACE', message: 'ask: the disk is full' });
  expect(client.pending.size).toBe(0);
}

describe('replies', () => {
  test('are the same however they are split', () => {
    for (let cut = 0; cut <= session.length; cut++) {
      runSession([session.subarray(0, cut), session.subarray(cut)]);
    }
    runSession([...session].map((byte) => Buffer.from([byte])));
  });

  test('are simple without structured replies', () => {
    const client = new Client({ structured: false })
      .ask(READ, 50, 5)
      .ask(READ, 0, 3)
      .ask(READ, 0, 0);
    client.parser.parse(simple(1, 0, Buffer.from('hel')));
    client.parser.parse(Buffer.concat([Buffer.from('lo'), simple(2, nbdErrors.EIO), simple(3)]));
    expect(client.settled[0]?.answer.data.toString()).toBe('hello');
    expect(client.settled[1]?.error).toMatchObject({ code: 'INTERNAL' });
    expect(client.settled[2]?.error).toBeNull();
  });

  test('of another context do not count', () => {
    const client = new Client().ask(BLOCK_STATUS, 0, 8192);
    client.parser.parse(chunk(1, chunkTypes.BLOCK_STATUS, false, encodeAllocation(9, extents)));
    client.parser.parse(chunk(1, chunkTypes.BLOCK_STATUS, true, encodeAllocation(1, extents)));
    expect(client.settled[0]?.answer.extents).toHaveLength(2);
  });

  test('that fail after some data fail', () => {
    const client = new Client().ask(READ, 0, 8);
    client.parser.parse(data(1, 0, 'abcd', false));
    const payload = Buffer.concat([encodeErrorPayload(nbdErrors.EIO, ''), place(4)]);
    client.parser.parse(chunk(1, chunkTypes.ERROR_OFFSET, true, payload));
    expect(client.settled[0]?.error).toMatchObject({ code: 'INTERNAL' });
  });
});

describe('a server that breaks the protocol', () => {
  const unknownType = chunk(1, 77, true, Buffer.alloc(0));
  test.each<[string, Buffer]>([
    ['a wrong magic', Buffer.alloc(16, 1)],
    ['an unknown cookie', simple(9)],
    ['a cookie with another high half', Buffer.from('67446698000000000000000100000001', 'hex')],
    ['a second answer', Buffer.concat([data(1, 0, '12345678'), data(1, 0, '12345678')])],
    ['data before the request', data(1, -1 + 2 ** 40, 'x')],
    ['data behind the request', data(1, 5, 'abcd')],
    ['too much data', Buffer.concat([data(1, 0, '12345678', false), data(1, 0, '1', false)])],
    ['too little data', data(1, 0, 'abc')],
    ['a hole behind the request', hole(1, 0, 9)],
    ['a hole of 4 GiB', hole(1, 0, 0xffff_ffff)],
    ['a malformed hole', chunk(1, chunkTypes.OFFSET_HOLE, true, Buffer.alloc(11))],
    ['a data chunk without data', chunk(1, chunkTypes.OFFSET_DATA, true, place(0))],
    ['success without data', chunk(1, chunkTypes.NONE, true, Buffer.alloc(0))],
    ['NONE that is not the end', chunk(1, chunkTypes.NONE, false, Buffer.alloc(0))],
    ['a status for a read', chunk(1, chunkTypes.BLOCK_STATUS, true, encodeAllocation(1, extents))],
    ['data for a write', data(2, 0, '12345678')],
    ['an unknown chunk', unknownType],
    ['an unknown chunk with a payload', chunk(1, 77, true, Buffer.alloc(1))],
    ['a malformed error', chunk(1, chunkTypes.ERROR, true, Buffer.alloc(5))],
    ['an endless error', chunk(1, chunkTypes.ERROR, true, Buffer.alloc(9000))],
    ['a status without descriptors', chunk(3, chunkTypes.NONE, true, Buffer.alloc(0))],
    ['a simple status', simple(3)],
    ['a malformed status', chunk(3, chunkTypes.BLOCK_STATUS, true, Buffer.alloc(11))],
    [
      'a status of length 0',
      chunk(3, chunkTypes.BLOCK_STATUS, true, Buffer.alloc(12, 0).fill(1, 3, 4)),
    ],
  ])('%s is a PROTOCOL_ERROR', (_, bytes) => {
    const client = new Client().ask(READ, 0, 8).ask(WRITE, 0, 8).ask(BLOCK_STATUS, 0, 8);
    expect(() => client.parser.parse(bytes)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_ERROR' }),
    );
  });

  test('chunks without structured replies are a PROTOCOL_ERROR', () => {
    const client = new Client({ structured: false }).ask(READ, 0, 4);
    expect(() => client.parser.parse(data(1, 0, 'abcd'))).toThrow('wrong magic');
  });

  test('any bytes settle a request at most once, or are a PROTOCOL_ERROR', () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
      fc
        .tuple(fc.nat(5), fc.nat(10), fc.boolean())
        .map(([cookie, offset, done]) => data(cookie, offset, 'ab', done)),
      fc.tuple(fc.nat(5), fc.nat(20)).map(([cookie, length]) => hole(cookie, 0, length)),
      fc.nat(5).map((cookie) => simple(cookie)),
    );
    fc.assert(
      fc.property(fc.array(piece), (pieces) => {
        const client = new Client().ask(READ, 0, 8).ask(WRITE, 0, 8).ask(READ, 5, 2);
        try {
          for (const bytes of pieces) client.parser.parse(bytes);
        } catch (error) {
          expect(error).toMatchObject({ code: 'PROTOCOL_ERROR' });
        }
      }),
    );
  });
});

test('cookies that are still in use are not given again', () => {
  const pending = new PendingRequests(null);
  const request = { what: '', command: FLUSH, offset: 0, length: 0, settle: () => undefined };
  expect(pending.add(request)).toEqual(at(1));
  expect(pending.add(request)).toEqual(at(2));
  pending.simple(at(1), 0);
  expect(pending.add(request)).toEqual(at(3));
  expect(pending.size).toBe(2);
});
