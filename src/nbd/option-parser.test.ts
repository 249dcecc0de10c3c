import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { VolumeError } from '../volumes/errors.ts';
import { encodeOption } from './handshake-codec.ts';
import { OptionParser, type HandshakeEvent } from './option-parser.ts';

const limits = { optionBytes: 100, handshakeBytes: 1000, handshakeOptions: 5 };
const flags = (value: number): Buffer => Buffer.from([0, 0, 0, value]);

function parseAll(pieces: Buffer[]): { events: HandshakeEvent[]; rest: Buffer } {
  const parser = new OptionParser(limits);
  const events: HandshakeEvent[] = [];
  for (const piece of pieces) {
    parser.push(piece);
    for (let event = parser.next(); event !== null; event = parser.next()) events.push(event);
  }
  return { events, rest: parser.rest() };
}

const session = Buffer.concat([
  flags(3),
  encodeOption(8, Buffer.alloc(0)),
  encodeOption(200, Buffer.alloc(150)),
  encodeOption(7, Buffer.from('data')),
]);
const sessionEvents: HandshakeEvent[] = [
  { kind: 'flags', noZeroes: true },
  { kind: 'option', option: 8, data: Buffer.alloc(0) },
  { kind: 'tooBig', option: 200 },
  { kind: 'option', option: 7, data: Buffer.from('data') },
];

test('a session gives the same events however it is split', () => {
  for (let at = 0; at <= session.length; at++) {
    const { events } = parseAll([session.subarray(0, at), session.subarray(at)]);
    expect(events).toEqual(sessionEvents);
  }
  const bytes = [...session].map((byte) => Buffer.from([byte]));
  expect(parseAll(bytes).events).toEqual(sessionEvents);
});

test('what follows the last option is left over', () => {
  const parser = new OptionParser(limits);
  parser.push(Buffer.concat([flags(1), encodeOption(7, Buffer.alloc(2)), Buffer.from('more')]));
  expect(parser.next()).toEqual({ kind: 'flags', noZeroes: false });
  expect(parser.next()).toMatchObject({ kind: 'option', option: 7 });
  expect(parser.rest().toString()).toBe('more');
});

describe('refused', () => {
  test.each([
    ['unknown client flags', [flags(4)]],
    ['a wrong option magic', [flags(3), Buffer.alloc(16)]],
    ['an option beyond the bytes of a handshake', [flags(3), encodeOption(1, Buffer.alloc(1001))]],
    [
      'many options',
      [flags(3), ...Array.from({ length: 6 }, () => encodeOption(3, Buffer.alloc(0)))],
    ],
    [
      'many bytes of options',
      [flags(3), ...Array.from({ length: 5 }, () => encodeOption(3, Buffer.alloc(250)))],
    ],
  ])('%s', (_, pieces) => {
    expect(() => parseAll(pieces)).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR' }));
  });

  test('a length of 4 GiB is refused before any of it is kept', () => {
    const header = encodeOption(1, Buffer.alloc(0));
    header.writeUInt32BE(0xffff_ffff, 12);
    expect(() => parseAll([flags(3), header])).toThrow(VolumeError);
  });
});

test('any bytes give events or a PROTOCOL_ERROR', () => {
  const noise = fc.array(
    fc.oneof(
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
      fc
        .tuple(fc.nat(12), fc.nat(120))
        .map(([option, size]) => encodeOption(option, Buffer.alloc(size))),
    ),
  );
  fc.assert(
    fc.property(fc.nat(4), noise, (clientFlags, pieces) => {
      try {
        parseAll([flags(clientFlags), ...pieces]);
      } catch (error) {
        expect(error).toMatchObject({ code: 'PROTOCOL_ERROR' });
      }
    }),
  );
});
