/**
 * What the local disk has of a volume beyond the backend. Every open of a volume writes into a directory of its own,
 * log-WRITER; an open that ended cleanly removes it. Of the directories that are left, one may continue the backend's
 * last slot: that is the tail. The others are leftovers of recoveries that were themselves interrupted, or, when another
 * owner has committed meanwhile, a tail that can't become part of the volume any more.
 */
import type { Disk } from '../disk/disk.ts';
import { linkOf, noNonce, tlogHeaderBytes, type TlogHeader } from '../format/tlog-header.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { parseTlog, wasDurableBehindHeader, type ParsedTlog } from '../log/tlog-reader.ts';

export interface LocalLog {
  directory: string;
  /** Intact headers only, by slot. */
  tlogs: ParsedTlog[];
  /** TLogs behind a gap: what lies between was lost, and so are they. Of a tail only. */
  behindGap: ParsedTlog[];
  /** TLogs without an intact header, by slot. */
  unreadable: UnreadableTlog[];
}

export interface UnreadableTlog {
  /** As its name says. */
  slot: number;
  /** A mark in it says that it was durable: its header was damaged later. */
  damaged: boolean;
  /** It had more than a header: writes may have been acknowledged from it. */
  hadRecords: boolean;
}

export interface LocalState {
  /** Continues the backend; its `tlogs` start at the slot after the backend's last. */
  tail: LocalLog | null;
  /** Fully in the backend, or derived from the tail: can be deleted. */
  obsolete: LocalLog[];
  /** Another owner has taken the slots: never to be replayed, kept for the operator. */
  overtaken: LocalLog[];
  /** Why writes are lost that no log here has any more; null when nothing says so. */
  lost: string | null;
}

const logDirectory = /^log-[0-9a-f]{8}$/;

export function logDirectoryName(writer: number): string {
  return `log-${writer.toString(16).padStart(8, '0')}`;
}

export function readLocalLogs(disk: Disk, volumeDirectory: string): LocalLog[] {
  return disk
    .list(volumeDirectory)
    .filter((name) => logDirectory.test(name))
    .map((name) => readLocalLog(disk, `${volumeDirectory}/${name}`));
}

function readLocalLog(disk: Disk, directory: string): LocalLog {
  const tlogs: ParsedTlog[] = [];
  const unreadable: UnreadableTlog[] = [];
  for (const name of disk.list(directory).filter((other) => other.endsWith('.tlog'))) {
    const file = disk.open(`${directory}/${name}`, 'read');
    try {
      const bytes = Buffer.alloc(file.sizeBytes());
      file.readSync(bytes, 0);
      const tlog = parseTlog(bytes);
      if (tlog !== undefined) tlogs.push(tlog);
      else unreadable.push(unreadableTlog(Number.parseInt(name, 16), bytes));
    } finally {
      file.close();
    }
  }
  tlogs.sort((a, b) => a.header.slot - b.header.slot);
  return { directory, tlogs, behindGap: [], unreadable };
}

function unreadableTlog(slot: number, bytes: Buffer): UnreadableTlog {
  const damaged = wasDurableBehindHeader(bytes, slot);
  return { slot, damaged, hadRecords: bytes.length > tlogHeaderBytes };
}

/** Newer than the backend, flushed, and not readable any more: CORRUPT, or an open would delete it as if it were empty. */
export function assertReadable(logs: readonly LocalLog[], last: TlogHeader | null): void {
  for (const log of logs) {
    const mark = lastMark(log);
    for (const { slot, damaged } of log.unreadable) {
      if (slot <= (last?.slot ?? 0) || (!damaged && slot > mark.slot)) continue;
      throw new VolumeError(
        'CORRUPT',
        `opening a volume: the header of slot ${slot} in ${log.directory} is damaged, and what it holds was flushed; ` +
          'restore the file or remove the directory to lose what is in it',
      );
    }
  }
}

/** Why writes may be lost that never got into the backend and that no flush covered; null when none are. */
function lostUnreadable(logs: readonly LocalLog[], last: TlogHeader | null): string | null {
  for (const { directory, unreadable } of logs) {
    const lost = unreadable.find(({ slot, hadRecords }) => hadRecords && slot > (last?.slot ?? 0));
    if (lost !== undefined) return `slot ${lost.slot} in ${directory} has no header`;
  }
  return null;
}

/**
 * Sorts local logs by what they are to the backend's last slot (null when it has none). CORRUPT when a TLog is missing in
 * the tail that was durable.
 */
export function classify(logs: readonly LocalLog[], last: TlogHeader | null): LocalState {
  const state: LocalState = {
    tail: null,
    obsolete: [],
    overtaken: [],
    lost: lostUnreadable(logs, last),
  };
  const nonces = new Set(logs.flatMap((log) => log.tlogs.map(({ header }) => header.nonce)));
  for (const log of logs) {
    const kind = kindOf(log, last, nonces);
    if (kind !== 'tail') state[kind].push(log);
    else if (state.tail === null) state.tail = continuing(log, last);
    else state.overtaken.push(log);
  }
  return state;
}

function kindOf(
  log: LocalLog,
  last: TlogHeader | null,
  nonces: ReadonlySet<string>,
): 'tail' | 'obsolete' | 'overtaken' {
  const headers = log.tlogs.map(({ header }) => header);
  if (headers.length === 0) return 'obsolete';
  if (last !== null && headers.some(({ nonce }) => nonce === last.replaces)) return 'obsolete';
  const next = headers.find(({ slot }) => slot > (last?.slot ?? 0));
  if (next === undefined) return isCommitted(headers, last) ? 'obsolete' : 'overtaken';
  if (next.replaces !== noNonce && nonces.has(next.replaces)) return 'obsolete';
  return follows(next, last) ? 'tail' : 'overtaken';
}

/**
 * Nothing here is newer than the backend: is it in there? Its last slot is ours when it has our nonce, or when we have
 * none of that number any more and wrote it all the same. The next open of ours would have discarded this log before its
 * first commit: so a last slot of another writer means another owner.
 */
function isCommitted(headers: readonly TlogHeader[], last: TlogHeader | null): boolean {
  const own = headers.find(({ slot }) => slot === last?.slot);
  if (own !== undefined) return own.nonce === last?.nonce;
  return headers.some(({ writer }) => writer === last?.writer);
}

function follows(next: TlogHeader, last: TlogHeader | null): boolean {
  if (last === null) return next.slot === 1 && next.previous === linkOf(noNonce);
  return next.slot === last.slot + 1 && next.previous === linkOf(last.nonce);
}

/** The part of the log behind the backend's last slot, without gaps. */
function continuing(log: LocalLog, last: TlogHeader | null): LocalLog {
  const tlogs: ParsedTlog[] = [];
  let slot = last?.slot ?? 0;
  let nonce = last?.nonce ?? noNonce;
  for (const tlog of log.tlogs) {
    if (tlog.header.slot !== slot + 1 || tlog.header.previous !== linkOf(nonce)) continue;
    tlogs.push(tlog);
    slot = tlog.header.slot;
    nonce = tlog.header.nonce;
  }
  const mark = lastMark(log);
  if (mark.slot <= slot) {
    return { ...log, tlogs, behindGap: log.tlogs.filter((tlog) => tlog.header.slot > slot) };
  }
  throw new VolumeError(
    'CORRUPT',
    `opening a volume: slot ${slot + 1} is missing in ${log.directory}, although it was flushed up to slot ${mark.slot}; ` +
      'restore the file or remove the directory to lose what is in it',
  );
}

/** The place up to which the log is known to have been durable: its last sync mark. */
export interface DurableMark {
  slot: number;
  offset: number;
}

export function lastMark(log: LocalLog): DurableMark {
  let mark: DurableMark = { slot: 0, offset: 0 };
  for (const { records } of [...log.tlogs, ...log.behindGap]) {
    for (const { record } of records) {
      if (record.type !== 'sync') continue;
      const later =
        record.slot > mark.slot || (record.slot === mark.slot && record.offset > mark.offset);
      if (later) mark = { slot: record.slot, offset: record.offset };
    }
  }
  return mark;
}
