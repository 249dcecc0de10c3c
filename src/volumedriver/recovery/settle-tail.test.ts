/** What becomes of each record of a local tail: the decisions alone; open-volume.test.ts shows them carried out. */
import { describe, expect, test } from '@jest/globals';
import { headerOf, range, sync, tlogBytes } from '../../../test/support/tlog-bytes.ts';
import type { LogRecord } from '../format/record.ts';
import { tlogHeaderBytes } from '../format/tlog-header.ts';
import { parseTlog, type ParsedTlog } from '../log/tlog-reader.ts';
import type { LocalLog } from './local-tail.ts';
import { planTail } from './settle-tail.ts';

const recordBytes = 32;
const endOf = (records: number): number => tlogHeaderBytes + records * recordBytes;
const removed: LogRecord = { type: 'control', payload: { kind: 'removed' } };
const checkpoint: LogRecord = {
  type: 'control',
  payload: {
    kind: 'checkpoint',
    replayFrom: 1,
    state: {
      id: '01ARZ3NDEKTSV4RRFFQ69G5FAV',
      name: 'v',
      sizeBytes: 4096,
      createdSizeBytes: 4096,
      createdAtMs: 1,
      flushTo: 'local',
      source: null,
      parent: null,
      grants: [],
      generation: 0,
      written: false,
      formatting: null,
      snapshotNumber: 0,
      snapshots: [],
      removed: false,
    },
    root: null,
    snapshotRoots: [],
    accounts: null,
    doomed: [],
  },
};

interface Tlog {
  records: LogRecord[];
  sealed?: boolean;
  /** This byte of the file is wrong. */
  flip?: number;
}

/** Consecutive TLogs from slot 1 on. */
function tlogs(...parts: Tlog[]): ParsedTlog[] {
  return parts.map(({ records, sealed = false, flip }, i) => {
    const bytes = tlogBytes(headerOf(i + 1), records, { sealed });
    if (flip !== undefined) bytes[flip] = bytes.readUInt8(flip) ^ 0x10;
    const tlog = parseTlog(bytes);
    if (tlog === undefined) throw new Error('it has a header');
    return tlog;
  });
}

function described(record: LogRecord): string {
  if (record.type === 'range') return `range ${record.cluster}`;
  return record.type === 'control' ? 'removed' : record.type;
}

function logOf(...parts: Tlog[]): LocalLog {
  return { directory: 'd', tlogs: tlogs(...parts), behindGap: [], unreadable: [] };
}

function decisions(parts: Tlog[]): unknown {
  const plan = planTail(logOf(...parts));
  return {
    asTheyAre: plan.asTheyAre.map(({ header }) => header.slot),
    replaced: plan.replaced?.header.slot ?? null,
    kept: plan.kept.map(described),
    loose: plan.loose.map(described),
  };
}

const nothing = { asTheyAre: [], replaced: null, kept: [], loose: [] };

describe('the plan for a tail', () => {
  test.each<{ what: string; parts: Tlog[]; expected: object }>([
    { what: 'of nothing', parts: [], expected: nothing },
    {
      what: 'of a TLog without records replaces it',
      parts: [{ records: [] }],
      expected: { ...nothing, replaced: 1 },
    },
    {
      what: 'without a mark verifies everything',
      parts: [{ records: [range(1), removed] }],
      expected: { ...nothing, replaced: 1, loose: ['range 1', 'removed'] },
    },
    {
      what: 'without a mark takes no sealed TLog for durable',
      parts: [{ records: [range(1)], sealed: true }, { records: [range(2)] }],
      expected: { ...nothing, replaced: 1, loose: ['range 1', 'range 2'] },
    },
    {
      what: 'keeps what the mark covers and drops the mark itself',
      parts: [{ records: [range(1), range(2), sync(1, endOf(2)), range(3)] }],
      expected: { ...nothing, replaced: 1, kept: ['range 1', 'range 2'], loose: ['range 3'] },
    },
    {
      what: 'keeps a record only when the mark covers all of it',
      parts: [{ records: [range(1), range(2), sync(1, endOf(2) - 1)] }],
      expected: { ...nothing, replaced: 1, kept: ['range 1'], loose: ['range 2'] },
    },
    {
      what: 'goes by the last mark',
      parts: [{ records: [range(1), sync(1, endOf(1)), range(2), sync(1, endOf(3)), range(3)] }],
      expected: { ...nothing, replaced: 1, kept: ['range 1', 'range 2'], loose: ['range 3'] },
    },
    {
      what: 'commits a sealed TLog that is covered to its end',
      parts: [{ records: [range(1)], sealed: true }, { records: [range(2), sync(2, endOf(0))] }],
      expected: { ...nothing, asTheyAre: [1], replaced: 2, loose: ['range 2'] },
    },
    {
      what: 'does not commit a sealed TLog whose end the mark leaves out',
      parts: [{ records: [range(1)], sealed: true }, { records: [range(2), sync(1, endOf(1))] }],
      expected: { ...nothing, replaced: 1, kept: ['range 1'], loose: ['range 2'] },
    },
    {
      what: 'commits a sealed TLog that is covered to its last byte and no further',
      parts: [{ records: [range(1)], sealed: true }, { records: [range(2), sync(1, endOf(2))] }],
      expected: { ...nothing, asTheyAre: [1], replaced: 2, loose: ['range 2'] },
    },
    {
      what: 'commits everything when everything is covered',
      parts: [
        { records: [range(1)], sealed: true },
        { records: [range(2)], sealed: true },
        { records: [sync(3, endOf(0))] },
      ],
      expected: { ...nothing, asTheyAre: [1, 2], replaced: 3 },
    },
    {
      what: 'commits no TLog behind one that it replaces',
      parts: [
        { records: [range(1)], sealed: true },
        { records: [range(2), sync(1, endOf(1))], sealed: true },
        { records: [range(3)], sealed: true },
      ],
      expected: { ...nothing, replaced: 1, kept: ['range 1'], loose: ['range 2', 'range 3'] },
    },
    {
      what: 'ends with a torn TLog, whatever the next one says',
      parts: [{ records: [range(1), range(2)], flip: endOf(1) + 20 }, { records: [range(3)] }],
      expected: { ...nothing, replaced: 1, loose: ['range 1'] },
    },
    {
      what: 'carries no checkpoint over',
      parts: [{ records: [checkpoint, range(1)] }],
      expected: { ...nothing, replaced: 1, loose: ['range 1'] },
    },
  ])('$what', ({ parts, expected }) => {
    expect(decisions(parts)).toEqual(expected);
  });

  test.each<{ what: string; parts: Tlog[]; slot: number }>([
    {
      what: 'before a mark in the same TLog',
      parts: [{ records: [range(1), range(2), sync(1, endOf(2))], flip: endOf(0) + 20 }],
      slot: 1,
    },
    {
      what: 'in an earlier TLog than the mark',
      parts: [
        { records: [range(1), range(2)], sealed: true, flip: endOf(1) + 20 },
        { records: [sync(2, endOf(0))] },
      ],
      slot: 1,
    },
    {
      what: 'in the end record of a TLog that the mark covers',
      parts: [
        { records: [range(1)], sealed: true, flip: endOf(1) + 12 },
        { records: [sync(2, endOf(0))] },
      ],
      slot: 1,
    },
    {
      what: 'before the place that a mark in the next TLog names',
      parts: [
        { records: [range(1), range(2)], sealed: true, flip: endOf(1) + 20 },
        { records: [sync(1, endOf(2))] },
      ],
      slot: 1,
    },
  ])('is refused with damage $what', ({ parts, slot }) => {
    expect(() => planTail(logOf(...parts))).toThrow(
      expect.objectContaining({
        code: 'CORRUPT',
        message: expect.stringMatching(new RegExp(`in d is damaged at byte \\d+ of slot ${slot},`)),
      }),
    );
  });

  test('is refused with a control record of another version', () => {
    const later: LogRecord = { type: 'control', payload: { kind: 'compacted' } };
    expect(() => planTail(logOf({ records: [later] }))).toThrow(
      expect.objectContaining({ code: 'CORRUPT' }),
    );
  });
});

describe('writes that may have been acknowledged', () => {
  const open: Tlog = { records: [range(1), range(2)] };
  const sealed: Tlog = { ...open, sealed: true };

  test.each<{ what: string; parts: Tlog[]; lost: string | null }>([
    { what: 'none, when everything is there', parts: [sealed, open], lost: null },
    {
      what: 'those behind a broken record',
      parts: [{ ...open, flip: endOf(0) + 20 }],
      lost: 'torn',
    },
    { what: 'those of a TLog behind one without an end', parts: [open, open], lost: 'gap' },
    {
      what: 'none, when the next TLog holds a checkpoint only',
      parts: [open, { records: [checkpoint] }],
      lost: null,
    },
  ])('are lost: $what', ({ parts, lost }) => {
    const expected: unknown = lost === null ? null : expect.stringContaining(lost);
    expect(planTail(logOf(...parts)).lost).toEqual(expected);
  });

  test('are lost: those of a TLog behind one that is missing', () => {
    const [first, , third] = tlogs(sealed, sealed, open);
    if (first === undefined || third === undefined) throw new Error('three were made');
    const log = { directory: 'd', tlogs: [first], behindGap: [third], unreadable: [] };
    expect(planTail(log).lost).toContain('behind a gap');
  });
});
