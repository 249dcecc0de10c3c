/**
 * Reads a TLog back: its header and every valid record, up to the first place where the chain breaks. Pure: the bytes
 * come from a slot of the backend or from a local file, and it is the caller who decides what a broken end means.
 */
import {
  decodeRecord,
  framedLength,
  recordBytesMax,
  recordHeaderBytes,
  type LogRecord,
} from '../format/record.ts';
import {
  decodeTlogHeader,
  headerChecksum,
  tlogHeaderBytes,
  type TlogHeader,
} from '../format/tlog-header.ts';

export interface ParsedRecord {
  record: LogRecord;
  /** Where it starts and ends in the TLog, in bytes. */
  start: number;
  end: number;
}

export interface ParsedTlog {
  header: TlogHeader;
  records: ParsedRecord[];
  /** The TLog was sealed: an end record closes it. */
  sealed: boolean;
  /**
   * More was written behind the last valid record, and it is not there any more. The beginning of one record at the very
   * end is no such thing: the process ended while it wrote that, before anybody was told.
   */
  lostTail: boolean;
  /** Where the valid records end, in bytes. */
  end: number;
  /** A mark behind the end says that more was durable: not a torn end, but damage. */
  damaged: boolean;
}

/** undefined when not even the header is intact. */
export function parseTlog(bytes: Buffer): ParsedTlog | undefined {
  const header = decodeTlogHeader(bytes);
  if (header === undefined) return undefined;
  const records: ParsedRecord[] = [];
  let checksum = headerChecksum(bytes);
  let at = tlogHeaderBytes;
  for (;;) {
    const decoded = decodeRecord(bytes, at, checksum);
    if (decoded === undefined) break;
    records.push({ record: decoded.record, start: at, end: decoded.next });
    at = decoded.next;
    checksum = decoded.checksum;
    if (decoded.record.type === 'end') break;
  }
  const last = records.at(-1)?.record;
  const sealed = last?.type === 'end' && last.count === records.length - 1;
  return {
    header,
    records,
    sealed,
    lostTail: !sealed && !isBeginningOfRecord(bytes, at),
    end: at,
    damaged: !sealed && wasDurable(bytes, at, header.slot),
  };
}

/** The rest of the bytes is shorter than the record that it begins, or empty. */
function isBeginningOfRecord(bytes: Buffer, at: number): boolean {
  const rest = bytes.length - at;
  if (rest < recordHeaderBytes) return true;
  const length = bytes.readUInt32LE(at);
  return length > rest && length <= recordBytesMax;
}

/** Whether a TLog whose header is damaged was durable beyond it. `slot` is what its name says. */
export function wasDurableBehindHeader(bytes: Buffer, slot: number): boolean {
  return wasDurable(bytes, tlogHeaderBytes, slot);
}

/**
 * Do the records behind the broken one at `at` hold a sync mark that covers it? Their chain starts from the broken
 * record's own checksum field, which is intact unless the damage hit those very bytes. Valid records alone prove nothing:
 * a power cut may keep a later page of the file and lose an earlier one.
 */
function wasDurable(bytes: Buffer, at: number, slot: number): boolean {
  const length = framedLength(bytes, at);
  if (length === undefined) return false;
  let checksum = bytes.readUInt32LE(at + 4);
  let next = at + length;
  for (;;) {
    const decoded = decodeRecord(bytes, next, checksum);
    if (decoded === undefined) return false;
    const { record } = decoded;
    if (record.type === 'sync' && record.slot === slot && record.offset > at) return true;
    next = decoded.next;
    checksum = decoded.checksum;
  }
}
