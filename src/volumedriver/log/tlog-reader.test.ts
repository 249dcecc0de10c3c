/** Reading a TLog back: where it ends, and whether that end is a torn one or damage. */
import { describe, expect, test } from '@jest/globals';
import { flips } from '../../../test/support/damage.ts';
import { headerOf, nonceOf, range, sync, tlogBytes } from '../../../test/support/tlog-bytes.ts';
import { checksumOf, encodeRecord, type LogRecord } from '../format/record.ts';
import { tlogHeaderBytes } from '../format/tlog-header.ts';
import { parseTlog, type ParsedTlog } from './tlog-reader.ts';

const header = headerOf(5);
const records = [range(1), range(2), range(3)];
const recordBytes = 32;
const end = tlogHeaderBytes + 3 * recordBytes;
const open = tlogBytes(header, records);
const sealed = tlogBytes(header, records, { sealed: true });

function parsed(bytes: Buffer): ParsedTlog {
  const tlog = parseTlog(bytes);
  if (tlog === undefined) throw new Error('it has no header');
  return tlog;
}

function clustersOf({ records: found }: ParsedTlog): number[] {
  return found.flatMap(({ record }) => (record.type === 'range' ? [record.cluster] : []));
}

describe('a TLog', () => {
  test('that is open gives its records and where they are', () => {
    expect(parsed(open)).toEqual({
      header,
      records: records.map((record, i) => ({
        record,
        start: tlogHeaderBytes + i * recordBytes,
        end: tlogHeaderBytes + (i + 1) * recordBytes,
      })),
      sealed: false,
      lostTail: false,
      end,
      damaged: false,
    });
  });

  test('that is sealed ends with its end record, whatever follows', () => {
    for (const rest of [Buffer.alloc(0), Buffer.alloc(64), sealed, Buffer.alloc(99, 0xff)]) {
      const tlog = parsed(Buffer.concat([sealed, rest]));
      expect(tlog).toMatchObject({ sealed: true, lostTail: false, damaged: false });
      expect(tlog.end).toBe(end + recordBytes);
      expect(tlog.records).toHaveLength(4);
    }
  });

  test('is none without its header', () => {
    expect(parseTlog(Buffer.alloc(0))).toBeUndefined();
    expect(parseTlog(open.subarray(0, tlogHeaderBytes - 1))).toBeUndefined();
    expect(parseTlog(Buffer.alloc(4096))).toBeUndefined();
    for (const { bytes } of flips(open.subarray(0, tlogHeaderBytes))) {
      expect(parseTlog(Buffer.concat([bytes, open.subarray(tlogHeaderBytes)]))).toBeUndefined();
    }
  });

  test('may be nothing but a header', () => {
    const empty = parsed(open.subarray(0, tlogHeaderBytes));
    expect(empty).toMatchObject({ records: [], sealed: false, lostTail: false });
    expect(parsed(tlogBytes(header, [], { sealed: true })).sealed).toBe(true);
  });

  test('is not sealed by an end record that counts others', () => {
    for (const count of [0, 2, 4]) {
      expect(parsed(tlogBytes(header, [...records, { type: 'end', count }])).sealed).toBe(false);
    }
  });

  test('ends with the first end record', () => {
    const all: LogRecord[] = [range(1), { type: 'end', count: 1 }, range(2)];
    const tlog = parsed(tlogBytes(header, all));
    expect(clustersOf(tlog)).toEqual([1]);
    expect(tlog.sealed).toBe(true);
  });
});

describe('the end of a TLog', () => {
  test('is torn wherever the file ends', () => {
    for (let length = tlogHeaderBytes; length < sealed.length; length++) {
      const tlog = parsed(sealed.subarray(0, length));
      const whole = Math.floor((length - tlogHeaderBytes) / recordBytes);
      expect(clustersOf(tlog)).toEqual([1, 2, 3].slice(0, whole));
      expect(tlog.end).toBe(tlogHeaderBytes + whole * recordBytes);
      expect(tlog).toMatchObject({ sealed: false, damaged: false });
      expect(tlog.lostTail).toBe(false); // one record was not written to its end: nobody was told of it
    }
  });

  test('is lost where a byte is wrong', () => {
    for (const { bytes } of flips(open.subarray(tlogHeaderBytes + recordBytes))) {
      const start = open.subarray(0, tlogHeaderBytes + recordBytes);
      const tlog = parsed(Buffer.concat([start, bytes]));
      expect(clustersOf(tlog).length).toBeLessThan(3);
      expect(clustersOf(tlog)).toEqual([1, 2].slice(0, clustersOf(tlog).length));
      expect(tlog).toMatchObject({ sealed: false, damaged: false });
      const at = (clustersOf(tlog).length - 1) * recordBytes;
      const passesEnd = at + bytes.readUInt32LE(at) > bytes.length; // as one that was never written to its end
      if (!passesEnd) expect(tlog.lostTail).toBe(true);
    }
  });

  test('is lost where there are zeroes: the file grew, and what was written there is gone', () => {
    const grown = parsed(Buffer.concat([open, Buffer.alloc(5000)]));
    expect(grown).toMatchObject({ end, lostTail: true, damaged: false });
  });

  test('is before records of another log, however alike', () => {
    const other = tlogBytes(headerOf(5, { nonce: nonceOf(99) }), [range(7), range(8), range(9)]);
    for (let kept = 0; kept < 3; kept++) {
      const at = tlogHeaderBytes + kept * recordBytes;
      const tlog = parsed(Buffer.concat([open.subarray(0, at), other.subarray(at)]));
      expect(clustersOf(tlog)).toEqual([1, 2, 3].slice(0, kept));
      expect(tlog.lostTail).toBe(true);
    }
  });

  test('is before a record of this log that stands in the wrong place', () => {
    const second = open.subarray(tlogHeaderBytes + recordBytes, tlogHeaderBytes + 2 * recordBytes);
    expect(clustersOf(parsed(Buffer.concat([open, second])))).toEqual([1, 2, 3]);
    expect(clustersOf(parsed(Buffer.concat([open.subarray(0, tlogHeaderBytes), second])))).toEqual(
      [],
    );
  });
});

describe('a broken record', () => {
  /** `records`, a mark, one more record; then one byte of the record at `nth` is wrong. */
  function broken(mark: LogRecord, nth: number): ParsedTlog {
    const bytes = tlogBytes(header, [...records, mark, range(4)]);
    const at = tlogHeaderBytes + nth * recordBytes + 16;
    bytes[at] = bytes.readUInt8(at) ^ 1;
    return parsed(bytes);
  }

  test.each([
    { what: 'a later mark covers it', mark: sync(5, end), nth: 0, damaged: true },
    { what: 'a later mark covers its beginning', mark: sync(5, end - 1), nth: 2, damaged: true },
    { what: 'the mark ends where it begins', mark: sync(5, end - 32), nth: 2, damaged: false },
    { what: 'the mark is of an earlier slot', mark: sync(4, end), nth: 0, damaged: false },
    { what: 'the mark is of a later slot', mark: sync(6, end), nth: 0, damaged: false },
    { what: 'nothing but records follow it', mark: range(9), nth: 1, damaged: false },
    { what: 'the mark stands before it', mark: sync(5, end), nth: 4, damaged: false },
    { what: 'it is the mark itself', mark: sync(5, end), nth: 3, damaged: false },
  ])('is damage or a torn end: $what', ({ mark, nth, damaged }) => {
    const tlog = broken(mark, nth);
    expect(tlog.end).toBe(tlogHeaderBytes + nth * recordBytes);
    expect(tlog).toMatchObject({ damaged, sealed: false, lostTail: true });
  });

  test('hides what follows it, when its length is wrong', () => {
    const bytes = tlogBytes(header, [...records, sync(5, end)]);
    bytes.writeUInt32LE(40, tlogHeaderBytes);
    expect(parsed(bytes)).toMatchObject({ damaged: false, lostTail: true, records: [] });
  });

  test('does not become damage by a mark that is chained to something else', () => {
    const stray = encodeRecord(sync(5, end), checksumOf(encodeRecord(range(1), 1)));
    const bytes = Buffer.concat([open, stray]);
    bytes[tlogHeaderBytes + 20] = 1;
    expect(parsed(bytes).damaged).toBe(false);
  });
});
