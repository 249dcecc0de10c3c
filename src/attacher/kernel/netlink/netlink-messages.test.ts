/** Byte for byte; the expected bytes are written by hand after include/uapi/linux/{netlink,genetlink}.h. */
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  attribute,
  attributeNested,
  attributeString,
  attributeU32,
  attributeU64,
  decodeAttributes,
  decodeErrno,
  decodeFamily,
  decodeGeneric,
  decodeMessages,
  encodeGeneric,
  encodeGetFamily,
  encodeMessage,
  findNumber,
  findValue,
} from './netlink-messages.ts';

function hex(...parts: string[]): Buffer {
  return Buffer.from(parts.join('').replaceAll(' ', ''), 'hex');
}

describe('encoding', () => {
  test('puts a header before a payload', () => {
    const payload = encodeGetFamily('nbd');
    // Command 3, version 1; length 8, type 2, "nbd\0".
    expect(payload).toEqual(hex('03 01 0000', '0800 0200 6e626400'));
    expect(encodeMessage({ type: 16, flags: 5, sequence: 0x01020304, payload })).toEqual(
      hex('1c000000 1000 0500 04030201 00000000', payload.toString('hex')),
    );
  });

  test.each([
    { what: 'u32', bytes: attributeU32(1, 9), expected: '0800 0100 09000000' },
    {
      what: 'u64',
      bytes: attributeU64(2, 2 ** 40 + 1),
      expected: '0c00 0200 0100000000010000',
    },
    { what: 'a padded string', bytes: attributeString(10, 'ab'), expected: '0700 0a00 616200 00' },
    { what: 'nothing', bytes: attribute(7, Buffer.alloc(0)), expected: '0400 0700' },
    {
      what: 'others',
      bytes: attributeNested(7, [attributeNested(1, [attributeU32(1, 5)])]),
      expected: '1000 0780 0c00 0180 0800 0100 05000000',
    },
  ])('makes attributes of $what', ({ bytes, expected }) => {
    expect(bytes).toEqual(hex(expected));
  });

  test('refuses what no attribute can hold', () => {
    expect(() => attribute(1, Buffer.alloc(0xfffc))).toThrow('BUG');
    expect(() => attributeU64(1, -1)).toThrow('BUG');
    expect(() => attributeU64(1, 2 ** 53)).toThrow('BUG');
  });
});

describe('messages', () => {
  const two = hex(
    '15000000 2100 0000 07000000 00000000 0102030405 000000',
    '11000000 0300 0200 08000000 00000000 06',
  );

  test('are taken apart, the last one without its padding', () => {
    expect(decodeMessages(two)).toEqual([
      { type: 0x21, flags: 0, sequence: 7, payload: hex('0102030405') },
      { type: 3, flags: 2, sequence: 8, payload: hex('06') },
    ]);
    expect(decodeMessages(Buffer.alloc(0))).toEqual([]);
  });

  test.each([
    { what: 'a cut header', bytes: two.subarray(0, 12) },
    { what: 'a cut payload', bytes: two.subarray(0, 20) },
    { what: 'a length below that of the header', bytes: hex('0f000000', '00'.repeat(12)) },
    { what: 'a length of nothing', bytes: Buffer.alloc(16) },
    { what: 'a length beyond the end', bytes: hex('ffffffff', '00'.repeat(12)) },
    { what: 'a second header that is cut', bytes: two.subarray(0, 30) },
  ])('with $what are nothing', ({ bytes }) => {
    expect(decodeMessages(bytes)).toBeNull();
  });

  test.each([
    { bytes: hex('00000000', '00'.repeat(16)), errno: 0 },
    { bytes: hex('eaffffff'), errno: 22 },
    { bytes: hex('eaffff'), errno: null },
    { bytes: hex('01000000'), errno: null },
  ])('of errors tell errno $errno', ({ bytes, errno }) => {
    expect(decodeErrno(bytes)).toBe(errno);
  });
});

describe('attributes', () => {
  test('come in their order, nested or not', () => {
    const bytes = hex('0500 0180 ff 000000', '0800 0240 01020304', '0600 0100 3412');
    const attributes = decodeAttributes(bytes) ?? [];
    expect(attributes.map(({ type }) => type)).toEqual([1, 2, 1]);
    expect(findNumber(attributes, 1, 2)).toBe(0x1234);
    expect(findNumber(attributes, 2, 4)).toBe(0x04030201);
    expect(findNumber(attributes, 2, 2)).toBeNull();
    expect(findNumber(attributes, 3, 4)).toBeNull();
    expect(findValue(attributes, 3)).toBeNull();
  });

  test.each(['0400', '0300 0100', '0000 0100', '0900 0100 00000000'])(
    'of the bytes %s are nothing',
    (bytes) => {
      expect(decodeAttributes(hex(bytes))).toBeNull();
    },
  );
});

describe('families', () => {
  // As a kernel with nbd answers: id 33, name, version 1, no own header, maximum 10, one group "nbd_mc_group" of id 9.
  const head = '01 02 0000';
  const fields = [
    '0800 0200 6e626400',
    '0600 0100 2100 0000',
    '0800 0300 01000000',
    '0800 0400 00000000',
    '0800 0500 0a000000',
  ];
  const groups =
    '2400 0700 2000 0100 0800 0200 09000000 1100 0100 6e62645f6d635f67726f757000 000000';

  test('are known by their answer', () => {
    expect(decodeFamily(hex(head, ...fields, groups))).toEqual({
      id: 33,
      version: 1,
      maxAttribute: 10,
      groups: new Map([['nbd_mc_group', 9]]),
    });
    expect(decodeFamily(hex(head, ...fields))?.groups.size).toBe(0);
  });

  test.each([
    { what: 'another command', bytes: hex('02 02 0000', ...fields) },
    { what: 'no id', bytes: hex(head, ...fields.toSpliced(1, 1)) },
    { what: 'no version', bytes: hex(head, ...fields.toSpliced(2, 1)) },
    { what: 'no maximum', bytes: hex(head, ...fields.toSpliced(4, 1)) },
    { what: 'an id that is too short', bytes: hex(head, ...fields, '0500 0100 21 000000') },
    { what: 'malformed groups', bytes: hex(head, ...fields, '0800 0700 ffff0100') },
    { what: 'a malformed group', bytes: hex(head, ...fields, '0c00 0700 0800 0100 ffff0100') },
    { what: 'a group without a name', bytes: hex(head, ...fields, '0800 0700 0400 0100') },
    { what: 'nothing', bytes: Buffer.alloc(0) },
  ])('with $what are nothing', ({ bytes }) => {
    expect(decodeFamily(bytes)).toBeNull();
  });
});

describe('any bytes', () => {
  const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));

  test('never make a decoder throw', () => {
    fc.assert(
      fc.property(bytes, (garbage) => {
        for (const decode of [decodeMessages, decodeAttributes, decodeGeneric, decodeErrno])
          decode(garbage);
        const message = encodeGeneric({ command: 1, version: 1, attributes: [garbage] });
        decodeFamily(message);
        decodeFamily(Buffer.concat([message, attributeNested(7, [attributeNested(1, [garbage])])]));
      }),
    );
  });

  test('come back as they were put in', () => {
    const types = fc.integer({ min: 1, max: 0x3fff });
    const list = fc.array(fc.record({ type: types, value: bytes }), { maxLength: 8 });
    fc.assert(
      fc.property(list, fc.integer({ min: 0, max: 255 }), (attributes, command) => {
        const encoded = attributes.map(({ type, value }) => attribute(type, value));
        const payload = encodeGeneric({ command, version: 1, attributes: encoded });
        expect(decodeGeneric(payload)).toEqual({ command, version: 1, attributes });
        const message = { type: 33, flags: 5, sequence: 77, payload };
        expect(decodeMessages(encodeMessage(message))).toEqual([message]);
        for (let cut = 1; cut < 4 && cut < payload.length; cut++)
          expect(decodeMessages(encodeMessage(message).subarray(0, -cut))).toBeNull();
      }),
    );
  });
});
