/** What a local log is to the backend's last slot. */
import { describe, expect, test } from '@jest/globals';
import { SimulatedDisk } from '../../../test/support/simulated-disk.ts';
import { headerOf, nonceOf, range, sync, tlogBytes } from '../../../test/support/tlog-bytes.ts';
import type { TlogHeader } from '../format/tlog-header.ts';
import { parseTlog } from '../log/tlog-reader.ts';
import {
  assertReadable,
  classify,
  lastMark,
  logDirectoryName,
  readLocalLogs,
  type LocalLog,
} from './local-tail.ts';

function logOf(directory: string, ...headers: TlogHeader[]): LocalLog {
  return {
    directory,
    behindGap: [],
    unreadable: [],
    tlogs: headers.map((header) => {
      const tlog = parseTlog(tlogBytes(header, [range(header.slot)], { sealed: true }));
      if (tlog === undefined) throw new Error('it has a header');
      return tlog;
    }),
  };
}

/** Directories by what they are; slots of the tail. */
function sorted(logs: LocalLog[], last: TlogHeader | null): unknown {
  const { tail, obsolete, overtaken } = classify(logs, last);
  return {
    tail: tail === null ? null : [tail.directory, ...tail.tlogs.map(({ header }) => header.slot)],
    obsolete: obsolete.map(({ directory }) => directory),
    overtaken: overtaken.map(({ directory }) => directory),
  };
}

const nothing = { tail: null, obsolete: [], overtaken: [] };
const foreign = { nonce: nonceOf(200) };

describe('a local log', () => {
  test.each<{ what: string; logs: LocalLog[]; last: TlogHeader | null; expected: object }>([
    { what: 'none at all', logs: [], last: headerOf(3), expected: nothing },
    {
      what: 'one without an intact header',
      logs: [logOf('a')],
      last: headerOf(3),
      expected: { ...nothing, obsolete: ['a'] },
    },
    {
      what: 'one that continues the last slot',
      logs: [logOf('a', headerOf(4), headerOf(5))],
      last: headerOf(3),
      expected: { ...nothing, tail: ['a', 4, 5] },
    },
    {
      what: 'one whose first slots are in the backend',
      logs: [logOf('a', headerOf(2), headerOf(3), headerOf(4))],
      last: headerOf(3),
      expected: { ...nothing, tail: ['a', 4] },
    },
    {
      what: 'one that is wholly in the backend',
      logs: [logOf('a', headerOf(2), headerOf(3))],
      last: headerOf(3),
      expected: { ...nothing, obsolete: ['a'] },
    },
    {
      what: 'one that ends before the last slot',
      logs: [logOf('a', headerOf(1))],
      last: headerOf(3),
      expected: { ...nothing, obsolete: ['a'] },
    },
    {
      what: 'one whose last slot another owner has committed',
      logs: [logOf('a', headerOf(3))],
      last: headerOf(3, foreign),
      expected: { ...nothing, overtaken: ['a'] },
    },
    {
      what: 'one that another owner has overtaken by several slots',
      logs: [logOf('a', headerOf(3), headerOf(4))],
      last: headerOf(6, { ...foreign, writer: 99 }),
      expected: { ...nothing, overtaken: ['a'] },
    },
    {
      what: 'one that follows a slot which another owner has committed instead',
      logs: [logOf('a', headerOf(3), headerOf(4))],
      last: headerOf(3, foreign),
      expected: { ...nothing, overtaken: ['a'] },
    },
    {
      what: 'one that begins behind a gap',
      logs: [logOf('a', headerOf(5))],
      last: headerOf(3),
      expected: { ...nothing, overtaken: ['a'] },
    },
    {
      what: 'one that has a gap inside, of what was never flushed',
      logs: [logOf('a', headerOf(4), headerOf(6))],
      last: headerOf(3),
      expected: { ...nothing, tail: ['a', 4] },
    },
    {
      what: 'one with a TLog that does not follow its predecessor',
      logs: [logOf('a', headerOf(4), headerOf(5, { previous: nonceOf(77).slice(0, 16) }))],
      last: headerOf(3),
      expected: { ...nothing, tail: ['a', 4] },
    },
    {
      what: 'one of a volume that the backend has no slot of',
      logs: [logOf('a', headerOf(1), headerOf(2))],
      last: null,
      expected: { ...nothing, tail: ['a', 1, 2] },
    },
    {
      what: 'one that does not begin at the beginning',
      logs: [logOf('a', headerOf(2))],
      last: null,
      expected: { ...nothing, overtaken: ['a'] },
    },
    {
      what: 'one that a committed recovery has carried over',
      logs: [logOf('a', headerOf(4, { nonce: nonceOf(44) }))],
      last: headerOf(4, { nonce: nonceOf(45), replaces: nonceOf(44) }),
      expected: { ...nothing, obsolete: ['a'] },
    },
    {
      what: 'one and the recovery of it that was interrupted',
      logs: [
        logOf('a', headerOf(4, { nonce: nonceOf(44) })),
        logOf('b', headerOf(4, { nonce: nonceOf(45), replaces: nonceOf(44) })),
      ],
      last: headerOf(3),
      expected: { ...nothing, tail: ['a', 4], obsolete: ['b'] },
    },
    {
      what: 'a recovery whose original is gone',
      logs: [logOf('b', headerOf(4, { nonce: nonceOf(45), replaces: nonceOf(44) }))],
      last: headerOf(3),
      expected: { ...nothing, tail: ['b', 4] },
    },
    {
      what: 'two that both continue the last slot',
      logs: [logOf('a', headerOf(4)), logOf('b', headerOf(4, { nonce: nonceOf(45) }))],
      last: headerOf(3),
      expected: { ...nothing, tail: ['a', 4], overtaken: ['b'] },
    },
  ])('is told apart: $what', ({ logs, last, expected }) => {
    expect(sorted(logs, last)).toEqual(expected);
  });

  test('that lost a TLog which was flushed is damaged', () => {
    const log = logOf('a', headerOf(4));
    const later = parseTlog(tlogBytes(headerOf(6), [sync(6, 128)]));
    if (later !== undefined) log.tlogs.push(later);
    expect(() => classify([log], headerOf(3))).toThrow(
      expect.objectContaining({
        code: 'CORRUPT',
        message: expect.stringContaining('slot 5 is missing'),
      }),
    );
  });
});

describe('the durable mark', () => {
  test.each([
    { what: 'none', marks: [], expected: { slot: 0, offset: 0 } },
    { what: 'one', marks: [[4, 200]], expected: { slot: 4, offset: 200 } },
    {
      what: 'the furthest',
      marks: [
        [4, 200],
        [4, 300],
        [4, 250],
      ],
      expected: { slot: 4, offset: 300 },
    },
    {
      what: 'that of the highest slot',
      marks: [
        [4, 900],
        [5, 128],
        [3, 999],
      ],
      expected: { slot: 5, offset: 128 },
    },
  ])('is $what', ({ marks, expected }) => {
    const records = marks.map(([slot = 0, offset = 0]) => sync(slot, offset));
    const tlog = parseTlog(tlogBytes(headerOf(5), records));
    const tlogs = tlog === undefined ? [] : [tlog];
    expect(lastMark({ ...logOf('a'), tlogs })).toEqual(expected);
  });
});

describe('local directories', () => {
  test('are named after their writer', () => {
    expect([logDirectoryName(1), logDirectoryName(0xffffffff)]).toEqual([
      'log-00000001',
      'log-ffffffff',
    ]);
  });

  test('are read with their intact TLogs, by slot; other names are left alone', () => {
    const disk = new SimulatedDisk();
    const put = (path: string, bytes: Buffer): void => {
      disk.makeDirectory(path.slice(0, path.lastIndexOf('/')));
      const file = disk.create(path);
      file.write([bytes], 0);
      file.close();
    };
    put('/v/log-00000002/b.tlog', tlogBytes(headerOf(7), []));
    put('/v/log-00000002/c.tlog', tlogBytes(headerOf(6), [range(1)]));
    put('/v/log-00000002/d.tlog', Buffer.alloc(4096));
    put('/v/log-00000002/e.tlog', Buffer.alloc(0));
    put('/v/log-00000002/f.sco', tlogBytes(headerOf(8), []));
    put('/v/log-2/a.tlog', tlogBytes(headerOf(9), []));
    put('/v/set-aside-log-00000003/a.tlog', tlogBytes(headerOf(9), []));
    put('/v/trash-00000004/a.tlog', tlogBytes(headerOf(9), []));
    const logs = readLocalLogs(disk, '/v');
    expect(logs.map(({ directory }) => directory)).toEqual(['/v/log-00000002']);
    expect(logs[0]?.tlogs.map(({ header }) => header.slot)).toEqual([6, 7]);
    expect(readLocalLogs(disk, '/none')).toEqual([]);
  });
});

describe('a TLog without an intact header', () => {
  const header = headerOf(4);
  const flushed = tlogBytes(header, [range(1), sync(4, 160), range(2)]);
  const unflushed = tlogBytes(header, [range(1), range(2)]);

  function logsWith(bytes: Buffer): LocalLog[] {
    const disk = new SimulatedDisk();
    disk.makeDirectory('/v/log-00000002');
    const file = disk.create('/v/log-00000002/00000000000004.tlog');
    const damaged = Buffer.from(bytes);
    if (damaged.length > 20) damaged.writeUInt8(damaged.readUInt8(20) ^ 1, 20);
    file.write([damaged], 0);
    file.close();
    return readLocalLogs(disk, '/v');
  }

  test.each([
    { what: 'one that was flushed is damage', bytes: flushed, last: 3, throws: true, lost: false },
    {
      what: 'of a slot in the backend is not',
      bytes: flushed,
      last: 4,
      throws: false,
      lost: false,
    },
    { what: 'nothing flushed is lost', bytes: unflushed, last: 3, throws: false, lost: true },
    {
      what: 'a header alone is nothing',
      bytes: tlogBytes(header, []),
      last: 3,
      throws: false,
      lost: false,
    },
    {
      what: 'an empty file is nothing',
      bytes: Buffer.alloc(0),
      last: 3,
      throws: false,
      lost: false,
    },
  ])('$what', ({ bytes, last, throws, lost }) => {
    const logs = logsWith(bytes);
    const check = (): void => {
      assertReadable(logs, headerOf(last));
    };
    if (throws) expect(check).toThrow(/slot 4 .* is damaged/);
    else {
      check();
      expect(classify(logs, headerOf(last)).lost !== null).toBe(lost);
    }
  });
});
