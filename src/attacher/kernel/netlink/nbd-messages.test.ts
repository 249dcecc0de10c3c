/** Byte for byte; the expected bytes are written by hand after include/uapi/linux/nbd-netlink.h. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  decodeConnected,
  decodeLinkDead,
  decodeStatus,
  encodeConnect,
  encodeDisconnect,
  encodeReconfigure,
  encodeStatus,
} from './nbd-messages.ts';

function hex(...parts: string[]): Buffer {
  return Buffer.from(parts.join('').replaceAll(' ', ''), 'hex');
}

const sizes = ['0c00 0200 0000000400000000', '0c00 0300 0002000000000000'];
const rest = ['0c00 0400 0000000000000000', '0c00 0500 6d01000000000000'];
const dead = '0c00 0800 100e000000000000';
const oneSocket = '1000 0780 0c00 0180 0800 0100 15000000';

describe('CONNECT', () => {
  const request = {
    index: null,
    sizeBytes: 64 * 1024 * 1024,
    blockSizeBytes: 512,
    serverFlags: 0x16d,
    sockets: [21],
    deadTimeoutSeconds: 3600,
    identifier: null,
  };

  test('without an index and an identifier', () => {
    expect(encodeConnect(request)).toEqual(hex('01 01 0000', ...sizes, ...rest, dead, oneSocket));
  });

  test('with everything', () => {
    const all = { ...request, index: 3, sockets: [21, 22], identifier: 'a/b#7' };
    const twoSockets = '1c00 0780 0c00 0180 0800 0100 15000000 0c00 0180 0800 0100 16000000';
    expect(encodeConnect(all)).toEqual(
      hex(
        ...['01 01 0000', '0800 0100 03000000', ...sizes, ...rest, dead, twoSockets],
        '0a00 0a00 612f62233700 0000',
      ),
    );
  });

  test('is answered with the index', () => {
    expect(decodeConnected(hex('01 01 0000', '0800 0100 05000000'))).toBe(5);
  });

  test.each([
    '',
    '01 01 00',
    '01 01 0000',
    '01 01 0000 0600 0100 0500',
    '04 01 0000 0800 0100 05000000',
  ])('is not answered by the bytes "%s"', (bytes) => {
    expect(decodeConnected(hex(bytes))).toBeNull();
  });
});

describe('RECONFIGURE', () => {
  const index = '0800 0100 02000000';
  test.each([
    { what: 'nothing', request: {}, expected: [] },
    { what: 'sockets', request: { sockets: [21] }, expected: [oneSocket] },
    {
      what: 'a size',
      request: { size: { sizeBytes: 64 * 1024 * 1024, blockSizeBytes: 512 } },
      expected: sizes,
    },
    {
      what: 'timeouts',
      request: { timeouts: { requestSeconds: 30, deadSeconds: 3600 } },
      expected: ['0c00 0400 1e00000000000000', dead],
    },
  ])('of $what', ({ request, expected }) => {
    expect(encodeReconfigure({ index: 2, identifier: 'v#', ...request })).toEqual(
      hex('03 01 0000', index, ...expected, '0700 0a00 762300 00'),
    );
    expect(encodeReconfigure({ index: 2, identifier: null, ...request })).toEqual(
      hex('03 01 0000', index, ...expected),
    );
  });
});

test('DISCONNECT names its device', () => {
  expect(encodeDisconnect(258)).toEqual(hex('02 01 0000', '0800 0100 02010000'));
});

test('LINK_DEAD tells the index', () => {
  expect(decodeLinkDead(hex('04 01 0000', '0800 0100 05000000'))).toBe(5);
  expect(decodeLinkDead(hex('05 01 0000', '0800 0100 05000000'))).toBeNull();
});

describe('STATUS', () => {
  const device = (index: string, connected: string): string =>
    `1400 0100 0800 0100 ${index} 0500 0200 ${connected} 000000`;

  test('asks for all', () => {
    expect(encodeStatus()).toEqual(hex('05 01 0000'));
  });

  test('lists the devices', () => {
    const list = `2c00 0900 ${device('00000000', '01')} ${device('09000000', '00')}`;
    expect(decodeStatus(hex('05 01 0000', list))).toEqual([
      { index: 0, connected: true },
      { index: 9, connected: false },
    ]);
    expect(decodeStatus(hex('05 01 0000', '0400 0900'))).toEqual([]);
  });

  test.each([
    { what: 'another command', bytes: hex('01 01 0000', '0400 0900') },
    { what: 'no list', bytes: hex('05 01 0000') },
    { what: 'a cut list', bytes: hex('05 01 0000', '1000 0900') },
    { what: 'a cut item', bytes: hex('05 01 0000', '0800 0900 0800 0100') },
    { what: 'no state', bytes: hex('05 01 0000', '1000 0900 0c00 0100 0800 0100 00000000') },
  ])('with $what is nothing', ({ bytes }) => {
    expect(decodeStatus(bytes)).toBeNull();
  });

  test('never throws', () => {
    const garbage = fc.uint8Array({ maxLength: 120 });
    fc.assert(
      fc.property(garbage, garbage, (bytes, inner) => {
        const header = Buffer.alloc(4);
        header.writeUInt16LE(inner.length + 4, 0);
        header.writeUInt16LE(9, 2);
        for (const command of [1, 4, 5]) {
          const head = Buffer.from([command, 1, 0, 0]);
          for (const payload of [[bytes], [head, bytes], [head, header, inner]]) {
            decodeStatus(Buffer.concat(payload));
            decodeConnected(Buffer.concat(payload));
            decodeLinkDead(Buffer.concat(payload));
          }
        }
      }),
    );
  });
});
