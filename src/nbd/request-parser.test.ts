import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { blockSizes, commands } from './protocol.ts';
import { PayloadPool, unpooled, type PayloadOwner } from './receive-buffers.ts';
import { RequestParser, type RequestSink } from './request-parser.ts';
import { encodeRequest, type RequestHeader } from './transmission-codec.ts';

interface Seen {
  header: RequestHeader;
  payload: Buffer | null;
  owner: PayloadOwner;
}

class RecordingSink implements RequestSink {
  readonly seen: Seen[] = [];
  readonly tooLong: RequestHeader[] = [];
  /** Payloads of writes to odd offsets are thrown away. */
  keepsPayload(header: RequestHeader): boolean {
    return header.offset % 2 === 0;
  }
  stopAfter = Infinity;

  request(header: RequestHeader, payload: Buffer | null, owner: PayloadOwner): boolean {
    this.seen.push({ header, payload, owner });
    owner.retain();
    return this.seen.length < this.stopAfter;
  }

  oversized(header: RequestHeader): void {
    this.tooLong.push(header);
  }
}

function newParser(sink: RequestSink): RequestParser {
  return new RequestParser(sink, new PayloadPool(0));
}

function request(command: number, offset: number, length: number): Buffer {
  return encodeRequest({ flags: 0, command, cookieHigh: 1, cookieLow: 2, offset, length });
}

function write(offset: number, payload: Buffer): Buffer {
  return Buffer.concat([request(commands.WRITE, offset, payload.length), payload]);
}

const session = Buffer.concat([
  request(commands.READ, 0, 4096),
  write(2, Buffer.from('kept payload')),
  write(3, Buffer.from('refused')),
  write(4, Buffer.alloc(0)),
  request(commands.FLUSH, 0, 0),
  write(6, Buffer.alloc(40, 1)),
]);

function summary(sink: RecordingSink): unknown[] {
  return sink.seen.map(({ header, payload }) => [
    header.command,
    header.offset,
    payload?.toString(),
  ]);
}

const expected = [
  [commands.READ, 0, undefined],
  [commands.WRITE, 2, 'kept payload'],
  [commands.WRITE, 3, undefined],
  [commands.WRITE, 4, ''],
  [commands.FLUSH, 0, undefined],
  [commands.WRITE, 6, Buffer.alloc(40, 1).toString()],
];

function feed(parser: RequestParser, pieces: Buffer[]): void {
  for (const piece of pieces) expect(parser.parse(piece, 0, unpooled)).toBe(piece.length);
}

describe('splits', () => {
  test('every split into two gives the same requests', () => {
    for (let at = 0; at <= session.length; at++) {
      const sink = new RecordingSink();
      feed(newParser(sink), [session.subarray(0, at), session.subarray(at)]);
      expect(summary(sink)).toEqual(expected);
    }
  });

  test('single bytes give the same requests', () => {
    const sink = new RecordingSink();
    feed(
      newParser(sink),
      [...session].map((byte) => Buffer.from([byte])),
    );
    expect(summary(sink)).toEqual(expected);
  });

  test('stopping after every request and going on gives the same requests', () => {
    const sink = new RecordingSink();
    const parser = newParser(sink);
    let at = 0;
    for (let count = 1; count <= expected.length; count++) {
      sink.stopAfter = count;
      at = parser.parse(session, at, unpooled);
      expect(sink.seen.length).toBe(count);
    }
    expect(at).toBe(session.length);
    expect(summary(sink)).toEqual(expected);
  });
});

describe('memory', () => {
  const owner: PayloadOwner = { retain: () => undefined, release: () => undefined };

  test('a payload within a chunk is a slice of it, with the owner of the chunk', () => {
    const sink = new RecordingSink();
    const chunk = write(0, Buffer.from('payload'));
    newParser(sink).parse(chunk, 0, owner);
    expect(sink.seen[0]?.payload?.buffer).toBe(chunk.buffer);
    expect(sink.seen[0]?.owner).toBe(owner);
  });

  test('a payload that spans chunks has a buffer of its own, where its rest can be received', () => {
    const sink = new RecordingSink();
    const parser = newParser(sink);
    const bytes = write(0, Buffer.from('0123456789'));
    expect(parser.missingPayload()).toBeNull();
    parser.parse(bytes.subarray(0, 32), 0, owner);
    const missing = parser.missingPayload();
    expect(missing).toHaveLength(6);
    bytes.copy(missing ?? Buffer.alloc(0), 0, 32);
    parser.parse(missing?.subarray(0, 4) ?? Buffer.alloc(0), 0, owner);
    parser.parse(missing?.subarray(4) ?? Buffer.alloc(0), 0, owner);
    expect(sink.seen[0]?.payload?.toString()).toBe('0123456789');
    expect(sink.seen[0]?.payload?.buffer).toBe(missing?.buffer);
    expect(sink.seen[0]?.owner).not.toBe(owner);
    expect(parser.missingPayload()).toBeNull();
  });
});

describe('memory of a payload that spans chunks is given back', () => {
  const pieces = [request(commands.WRITE, 0, 100), Buffer.alloc(60), Buffer.alloc(40)];

  test('when its last user releases it', () => {
    const sink = new RecordingSink();
    const pool = new PayloadPool(0);
    feed(new RequestParser(sink, pool), pieces);
    expect(pool.takenCount).toBe(1);
    sink.seen[0]?.owner.release();
    expect(pool.takenCount).toBe(0);
  });

  test('at once when nobody uses it', () => {
    const pool = new PayloadPool(0);
    const sink: RequestSink = {
      keepsPayload: () => true,
      request: () => true,
      oversized: () => undefined,
    };
    feed(new RequestParser(sink, pool), pieces);
    expect(pool.takenCount).toBe(0);
  });

  test('when the connection ends before it is complete', () => {
    const sink = new RecordingSink();
    const pool = new PayloadPool(0);
    const parser = new RequestParser(sink, pool);
    feed(parser, pieces.slice(0, 2));
    expect(pool.takenCount).toBe(1);
    parser.end();
    parser.end();
    expect(pool.takenCount).toBe(0);
    feed(parser, pieces.slice(2));
    expect(sink.seen).toEqual([]);
  });
});

describe('refused', () => {
  test('a wrong magic ends the parser', () => {
    const parser = newParser(new RecordingSink());
    expect(() => parser.parse(Buffer.alloc(28), 0, unpooled)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_ERROR' }),
    );
    const sink = new RecordingSink();
    expect(parser.parse(session, 0, unpooled)).toBe(session.length);
    expect(sink.seen).toEqual([]);
  });

  test.each([blockSizes.maximum + 1, 0xffff_ffff])(
    'a payload of %i bytes ends the parser',
    (length) => {
      const sink = new RecordingSink();
      const parser = newParser(sink);
      const chunk = Buffer.concat([request(commands.WRITE, 0, length), session]);
      expect(parser.parse(chunk, 0, unpooled)).toBe(chunk.length);
      expect(sink.tooLong).toMatchObject([{ length }]);
      parser.parse(session, 0, unpooled);
      expect(sink.seen).toEqual([]);
    },
  );

  test('the longest payload is taken', () => {
    const sink = new RecordingSink();
    const parser = newParser(sink);
    feed(parser, [
      request(commands.WRITE, 0, blockSizes.maximum),
      Buffer.alloc(blockSizes.maximum),
    ]);
    expect(sink.seen[0]?.payload).toHaveLength(blockSizes.maximum);
  });
});

test('any requests in any pieces come out as they went in', () => {
  const oneRequest = fc.record({
    command: fc.nat(9),
    flags: fc.nat(0xffff),
    cookieHigh: fc.nat(),
    cookieLow: fc.nat(),
    offset: fc.nat().map((value) => value * 2),
    payload: fc.uint8Array({ maxLength: 60 }),
  });
  fc.assert(
    fc.property(
      fc.array(oneRequest),
      fc.infiniteStream(fc.integer({ min: 1, max: 50 })),
      (all, sizes) => {
        const bytes = Buffer.concat(
          all.flatMap(({ payload, ...header }) => [
            encodeRequest({ ...header, length: payload.length }),
            header.command === commands.WRITE ? Buffer.from(payload) : Buffer.alloc(0),
          ]),
        );
        const sink = new RecordingSink();
        const parser = newParser(sink);
        let at = 0;
        for (const size of sizes) {
          if (at >= bytes.length) break;
          feed(parser, [bytes.subarray(at, at + size)]);
          at += size;
        }
        expect(sink.seen.map(({ header }) => header)).toEqual(
          all.map(({ payload, ...header }) => ({ ...header, length: payload.length })),
        );
        sink.seen.forEach(({ payload }, index) => {
          if (payload !== null) expect(payload).toEqual(Buffer.from(all[index]?.payload ?? []));
        });
      },
    ),
  );
});

test('noise never does more than end the parser', () => {
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
    fc.tuple(fc.nat(9), fc.nat(200)).map(([command, length]) => request(command, 0, length)),
  );
  fc.assert(
    fc.property(fc.array(piece), (pieces) => {
      const parser = newParser(new RecordingSink());
      try {
        for (const bytes of pieces) parser.parse(bytes, 0, unpooled);
      } catch (error) {
        expect(error).toMatchObject({ code: 'PROTOCOL_ERROR' });
      }
    }),
  );
});
