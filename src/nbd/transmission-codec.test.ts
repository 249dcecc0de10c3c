import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  decodeBlockStatus,
  decodeChunkHeader,
  decodeErrorPayload,
  decodeRequest,
  encodeAllocation,
  encodeErrorPayload,
  encodeRequest,
  writeChunkHeader,
  writeSimpleReply,
} from './transmission-codec.ts';

const cookie = { cookieHigh: 0x01020304, cookieLow: 0xf5f6f7f8 };

test('a request byte for byte', () => {
  const request = { flags: 1, command: 6, ...cookie, offset: 2 ** 33 + 5, length: 0xfffffffe };
  const bytes = encodeRequest(request);
  expect(bytes.toString('hex')).toBe('256095130001000601020304f5f6f7f80000000200000005fffffffe');
  expect(decodeRequest(bytes, 0)).toEqual(request);
});

test('a request with another magic is none', () => {
  expect(decodeRequest(Buffer.alloc(28), 0)).toBeNull();
});

test('an offset above 2^53 stays beyond the end of any device', () => {
  const bytes = encodeRequest({ flags: 0, command: 0, ...cookie, offset: 0, length: 1 });
  bytes.fill(0xff, 16, 24);
  expect(decodeRequest(bytes, 0)?.offset).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
});

test('replies byte for byte', () => {
  const bytes = Buffer.alloc(20);
  expect(writeSimpleReply(bytes, 0, cookie, 5)).toBe(16);
  expect(bytes.toString('hex', 0, 16)).toBe('674466980000000501020304f5f6f7f8');
  expect(writeChunkHeader(bytes, 0, cookie, { type: 0x8001, done: true, payloadBytes: 6 })).toBe(
    20,
  );
  expect(bytes.toString('hex')).toBe('668e33ef0001800101020304f5f6f7f800000006');
  expect(decodeChunkHeader(bytes)).toEqual({
    ...cookie,
    type: 0x8001,
    done: true,
    payloadBytes: 6,
  });
});

test('an error payload byte for byte', () => {
  const payload = encodeErrorPayload(28, 'full');
  expect(payload.toString('hex')).toBe('0000001c000466756c6c');
  expect(decodeErrorPayload(payload)).toEqual({ error: 28, message: 'full' });
  expect(decodeErrorPayload(payload.subarray(0, 9))).toBeNull();
  expect(decodeErrorPayload(Buffer.alloc(5))).toBeNull();
});

describe('allocation', () => {
  test('byte for byte, neighbours joined', () => {
    const payload = encodeAllocation(1, [
      { lengthBytes: 4096, hole: false },
      { lengthBytes: 4096, hole: false },
      { lengthBytes: 512, hole: true },
    ]);
    expect(payload.toString('hex')).toBe('00000001' + '0000200000000000' + '0000020000000003');
  });

  test('what was encoded is decoded, and nothing is lost by joining', () => {
    const extent = fc.record({
      lengthBytes: fc.integer({ min: 1, max: 2 ** 20 }),
      hole: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(extent, { minLength: 1, maxLength: 50 }), (extents) => {
        const status = decodeBlockStatus(encodeAllocation(9, extents));
        const total = extents.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
        const decoded = status?.descriptors ?? [];
        expect(decoded.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)).toBe(total);
        decoded.forEach(({ flags }, index) => {
          if (index > 0) expect(flags).not.toBe(decoded[index - 1]?.flags);
        });
      }),
    );
  });

  test.each([0, 4, 11, 13, 19])('a status payload of %i bytes is malformed', (length) => {
    expect(decodeBlockStatus(Buffer.alloc(length))).toBeNull();
  });
});
