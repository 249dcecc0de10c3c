import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  decodeGreeting,
  decodeInfoRequest,
  decodeMetaContext,
  decodeMetaContextRequest,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  decodeServerInfo,
  decodeText,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoRequest,
  encodeInfoText,
  encodeMetaContext,
  encodeMetaContextRequest,
  encodeOption,
  encodeOptionReply,
  encodeServerEntry,
  encodeText,
} from './handshake-codec.ts';
import { infoTypes, optionReplies, options } from './protocol.ts';

const text = (value: string): Buffer => Buffer.from(value, 'utf8');

describe('messages byte for byte', () => {
  const messages: [string, Buffer, string][] = [
    ['greeting', encodeGreeting(), '4e42444d41474943 49484156454f5054 0003'],
    [
      'GO of export "a" asking for the block size',
      encodeOption(options.GO, encodeInfoRequest({ exportName: 'a', infos: [3] })),
      '49484156454f5054 00000007 00000009 00000001 61 0001 0003',
    ],
    [
      'error reply',
      encodeOptionReply(options.GO, optionReplies.ERR_UNKNOWN, text('no')),
      '0003e889045565a9 00000007 80000006 00000002 6e6f',
    ],
    [
      'export name reply without zeroes',
      encodeExportNameReply(2 ** 40 + 1, 0x0d6d, false),
      '0000010000000001 0d6d',
    ],
    [
      'export information',
      encodeInfoExport({ sizeBytes: 4096, readOnly: false }),
      '0000 0000000000001000 0ded',
    ],
    [
      'export information, read-only',
      encodeInfoExport({ sizeBytes: 4096, readOnly: true }),
      '0000 0000000000001000 058f',
    ],
    ['block sizes', encodeInfoBlockSize(), '0003 00000001 00001000 02000000'],
    ['description', encodeInfoText(infoTypes.DESCRIPTION, 'é'), '0002 c3a9'],
    ['list entry', encodeServerEntry('v', 'd'), '00000001 76 64'],
    ['metadata context', encodeMetaContext(1, 'x:y'), '00000001 783a79'],
    [
      'metadata query',
      encodeMetaContextRequest({ exportName: '', queries: ['a:', 'b'] }),
      '00000000 00000002 00000002 613a 00000001 62',
    ],
  ];

  test.each(messages)('%s', (_, bytes, hex) => {
    expect(bytes.toString('hex')).toBe(hex.replaceAll(' ', ''));
  });

  test('an old client gets 124 zeroes behind the export name reply', () => {
    const reply = encodeExportNameReply(1, 1, true);
    expect(reply.length).toBe(134);
    expect(reply.subarray(10).every((byte) => byte === 0)).toBe(true);
  });
});

describe('decoding', () => {
  test('takes what was encoded', () => {
    expect(decodeGreeting(encodeGreeting())).toBe(3);
    const option = encodeOption(5, text('abc'));
    expect(decodeOptionHeader(option)).toEqual({ option: 5, dataBytes: 3 });
    const reply = encodeOptionReply(6, 2, text('abcd'));
    expect(decodeOptionReplyHeader(reply)).toEqual({ option: 6, type: 2, dataBytes: 4 });
    const facts = { sizeBytes: 2 ** 45, readOnly: true };
    expect(decodeServerInfo(encodeInfoExport(facts))).toMatchObject({ sizeBytes: 2 ** 45 });
    expect(decodeServerInfo(encodeInfoBlockSize())).toMatchObject({ maximum: 2 ** 25 });
    expect(decodeServerInfo(encodeInfoText(1, 'name'))).toEqual({ kind: 'other' });
    expect(decodeMetaContext(encodeMetaContext(7, 'n'))).toEqual({ id: 7, name: 'n' });
  });

  test('refuses other magics', () => {
    expect(decodeGreeting(Buffer.alloc(18))).toBeNull();
    expect(decodeOptionHeader(Buffer.alloc(16))).toBeNull();
    expect(decodeOptionReplyHeader(Buffer.alloc(20))).toBeNull();
  });

  test.each([
    ['nothing', ''],
    ['a name that is longer than the data', '00000005 6162 0000'],
    ['more information requests than data', '00000000 0002 0003'],
    ['data behind the requests', '00000000 0000 00'],
    ['a name that is not UTF-8', '00000001 ff 0000'],
    ['a length of 4 GiB', 'ffffffff 0000'],
  ])('an INFO request with %s is malformed', (_, hex) => {
    expect(decodeInfoRequest(Buffer.from(hex.replaceAll(' ', ''), 'hex'))).toBeNull();
  });

  test.each([
    ['a count without queries', '00000000 ffffffff'],
    ['a query that is cut', '00000000 00000001 00000004 6162'],
    ['data behind the queries', '00000000 00000000 00'],
    ['no count', '00000000 0000'],
  ])('a metadata request with %s is malformed', (_, hex) => {
    expect(decodeMetaContextRequest(Buffer.from(hex.replaceAll(' ', ''), 'hex'))).toBeNull();
  });

  test.each([
    ['too short', ''],
    ['short export', '0000 00'],
    ['short block size', '0003 00000001'],
  ])('a server information that is %s is malformed', (_, hex) => {
    expect(decodeServerInfo(Buffer.from(hex.replaceAll(' ', ''), 'hex'))).toBeNull();
  });

  test('names longer than 4096 bytes are not valid, and texts are cut there', () => {
    expect(decodeText(Buffer.alloc(4096, 'a'))).toHaveLength(4096);
    expect(decodeText(Buffer.alloc(4097, 'a'))).toBeNull();
    expect(encodeText('a'.repeat(5000))).toHaveLength(4096);
  });

  test('any bytes decode to a request that encodes to the same bytes, or to nothing', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (array) => {
        const bytes = Buffer.from(array);
        const info = decodeInfoRequest(bytes);
        if (info !== null) expect(encodeInfoRequest(info)).toEqual(bytes);
        const meta = decodeMetaContextRequest(bytes);
        if (meta !== null) expect(encodeMetaContextRequest(meta)).toEqual(bytes);
      }),
    );
  });

  test('requests survive encoding', () => {
    const name = fc.string({ unit: 'grapheme', maxLength: 40 });
    fc.assert(
      fc.property(name, fc.array(fc.nat(65535)), fc.array(name), (exportName, infos, queries) => {
        const info = { exportName, infos };
        expect(decodeInfoRequest(encodeInfoRequest(info))).toEqual(info);
        const meta = { exportName, queries };
        expect(decodeMetaContextRequest(encodeMetaContextRequest(meta))).toEqual(meta);
      }),
    );
  });
});
