/**
 * Brings the local tail of a volume into the backend, under a new epoch, before the first reply (design: promises 2, 4
 * and 5). TLogs that are wholly durable are committed as they are. The rest becomes one new TLog: its records up to the
 * last durable mark keep their locations; the data of those behind it is verified and written again to new objects,
 * because after a failed sync the kernel may show bytes that the disk does not have. The tail is cut at the first record
 * whose data is missing: what comes back is a prefix. Local files keep all their data until then, since a recovery that is
 * interrupted must be able to begin again.
 */
import type { Logger } from '../../base/logger.ts';
import { VolumeError } from '../../volumes/errors.ts';
import type { Disk, DiskFile } from '../disk/disk.ts';
import { clusterChecksum } from '../format/checksum.ts';
import { clusterBytes } from '../format/constants.ts';
import { parseControl } from '../format/control.ts';
import { formatObjectId } from '../format/location.ts';
import { encodeObjectTail } from '../format/object-footer.ts';
import type { LogRecord } from '../format/record.ts';
import { tlogHeaderBytes } from '../format/tlog-header.ts';
import { keys } from '../keys.ts';
import type { ParsedTlog } from '../log/tlog-reader.ts';
import { localNames, type VolumeLog } from '../log/volume-log.ts';
import type { ObjectStore } from '../store/object-store.ts';
import { lastMark, type DurableMark, type LocalLog } from './local-tail.ts';

type WriteRecord = Extract<LogRecord, { type: 'write' }>;

export interface TailPlan {
  /** Wholly durable TLogs: committed as they are. */
  asTheyAre: ParsedTlog[];
  /** The TLog that the recovery's own replaces; null when there is nothing left. */
  replaced: ParsedTlog | null;
  /** Records at or before the durable mark: their data stays where it is. */
  kept: LogRecord[];
  /** Records behind the mark: their data is verified and written again. */
  loose: LogRecord[];
  /** Why writes are lost that may have been acknowledged; null when everything is there. */
  lost: string | null;
}

/** CORRUPT when the log is damaged before its last durable mark: nothing is cut silently there. */
export function planTail(tail: LocalLog): TailPlan {
  const mark = lastMark(tail);
  assertIntact(tail, mark);
  const plan: TailPlan = { asTheyAre: [], replaced: null, kept: [], loose: [], lost: null };
  for (const tlog of tail.tlogs) {
    const end = tlog.records.at(-1)?.end ?? tlogHeaderBytes;
    if (tlog.sealed && plan.replaced === null && isCovered(mark, tlog, end)) {
      plan.asTheyAre.push(tlog);
      continue;
    }
    plan.replaced ??= tlog;
    for (const { record, end: recordEnd } of tlog.records) {
      if (!isCarried(record)) continue;
      (isCovered(mark, tlog, recordEnd) ? plan.kept : plan.loose).push(record);
    }
    if (!tlog.sealed) break; // whatever follows a torn end is not part of the prefix
  }
  plan.lost = whatIsLost(tail);
  return plan;
}

/** Writes behind a torn end or a gap: no flush covered them, but clients may count on them while no power was cut. */
function whatIsLost(tail: LocalLog): string | null {
  const cut = tail.tlogs.find((tlog) => !tlog.sealed);
  if (cut?.lostTail === true) return `slot ${cut.header.slot} is torn at byte ${cut.end}`;
  const slot = cut?.header.slot ?? tail.tlogs.at(-1)?.header.slot ?? 0;
  const behind = [...tail.tlogs, ...tail.behindGap].filter(({ header }) => header.slot > slot);
  const lost = behind.find(({ records }) => records.some(({ record }) => isCarried(record)));
  return lost === undefined ? null : `slot ${lost.header.slot} is behind a gap in the log`;
}

/** Whether the mark says that the TLog was durable up to that byte. */
function isCovered(mark: DurableMark, { header: { slot } }: ParsedTlog, end: number): boolean {
  return slot < mark.slot || (slot === mark.slot && end <= mark.offset);
}

/** Marks, ends and checkpoints belong to the TLogs that they were written into. */
function isCarried(record: LogRecord): boolean {
  if (record.type === 'write' || record.type === 'range') return true;
  return record.type === 'control' && parseControl(record.payload).kind !== 'checkpoint';
}

function assertIntact(tail: LocalLog, mark: DurableMark): void {
  for (const tlog of tail.tlogs) {
    const { slot, volume } = tlog.header;
    const covered = slot < mark.slot || (slot === mark.slot && tlog.end < mark.offset);
    if (!tlog.damaged && (tlog.sealed || !covered)) continue;
    throw new VolumeError(
      'CORRUPT',
      `opening volume ${volume}: its log in ${tail.directory} is damaged at byte ${tlog.end} of slot ${slot}, ` +
        'before the end of what was flushed; restore the file or remove the directory to lose what is in it',
    );
  }
}

export interface SettleParts {
  disk: Disk;
  store: ObjectStore;
  logger: Logger;
  /** The new log, whose first TLog replaces the tail. */
  log: VolumeLog;
  directory: string;
}

/** Stores the objects and commits the slot of a durable TLog as it is. FENCED when somebody else has the slot. */
export async function commitAsIs(parts: Omit<SettleParts, 'log'>, tlog: ParsedTlog): Promise<void> {
  const { disk, store, directory } = parts;
  const { slot, volume } = tlog.header;
  await storeObjects(
    parts,
    tlog.records.map(({ record }) => record),
  );
  const file = disk.open(`${directory}/${localNames.tlog(slot)}`, 'read');
  try {
    await file.sync();
    const bytes = Buffer.alloc(tlog.end);
    file.readSync(bytes, 0);
    if (await store.putIfAbsent(keys.slot(volume, slot), [bytes])) return;
  } finally {
    file.close();
  }
  throw new VolumeError(
    'FENCED',
    `opening volume ${volume}: another volumedriver committed slot ${slot}`,
  );
}

/** Writes the plan's records into the new log. Returns why acknowledged writes were lost, or null. */
export async function carryOver(parts: SettleParts, plan: TailPlan): Promise<string | null> {
  const { log } = parts;
  await storeObjects(parts, plan.kept, objectsOf(plan.loose));
  for (const record of plan.kept) log.append([record]);
  for (const record of plan.loose) {
    if (record.type !== 'write') {
      // As when it was first logged: no object has clusters on both sides of a snapshot, a rollback or a removal.
      if (record.type === 'control') log.sealObject();
      log.append([record]);
      continue;
    }
    const data = await readData(parts, record);
    if (data === undefined) {
      const reason = `data of object ${formatObjectId(record.objectId)} is missing behind the last sync`;
      parts.logger.warn('the end of the log was cut', {
        reason,
        volumeId: plan.replaced?.header.volume,
      });
      return reason;
    }
    writeAgain(log, record, data);
  }
  return null;
}

function writeAgain(log: VolumeLog, record: WriteRecord, data: Buffer): void {
  let { cluster } = record;
  for (let rest = data; rest.length > 0;) {
    const object = log.openObject();
    const bytes = rest.subarray(0, object.room * clusterBytes);
    const index = object.count;
    const checksums = object.stage(index, cluster, bytes);
    log.writeData(object, [bytes], bytes.length);
    log.append([{ type: 'write', cluster, objectId: object.objectId, index, checksums }]);
    object.commit(checksums.length);
    cluster += checksums.length;
    rest = rest.subarray(bytes.length);
  }
}

/** The record's clusters, verified; undefined when they are not what the record says. */
async function readData(parts: SettleParts, record: WriteRecord): Promise<Buffer | undefined> {
  const { disk, store, directory } = parts;
  const path = `${directory}/${localNames.object(record.objectId)}`;
  const count = record.checksums.length;
  const data = Buffer.alloc(count * clusterBytes);
  if (disk.sizeOf(path) !== undefined) {
    const file = disk.open(path, 'read');
    try {
      if (file.readSync(data, record.index * clusterBytes) < data.length) return undefined;
    } finally {
      file.close();
    }
  } else {
    const range = { offset: record.index * clusterBytes, length: data.length };
    const bytes = await store.get(keys.object(record.objectId), range);
    if (bytes?.length !== data.length) return undefined;
    bytes.copy(data);
  }
  for (let i = 0; i < count; i++) {
    const cluster = data.subarray(i * clusterBytes, (i + 1) * clusterBytes);
    const sum = clusterChecksum(cluster, record.objectId, record.index + i);
    if (sum !== record.checksums[i]) return undefined;
  }
  return data;
}

/**
 * Seals and stores the local objects that these records refer to. An object that the store has already is left alone:
 * the local name may be a link to that very file. So is one of `needed`, whose file holds data behind the records: it
 * is stored from a copy, since a recovery that is interrupted must find that data again.
 */
async function storeObjects(
  parts: Omit<SettleParts, 'log'>,
  records: readonly LogRecord[],
  needed: ReadonlySet<number> = new Set(),
): Promise<void> {
  const { disk, store, directory } = parts;
  for (const [objectId, writes] of writesByObject(records)) {
    const key = keys.object(objectId);
    if ((await store.get(key, { offset: 0, length: 1 })) !== undefined) {
      await store.confirm?.(key); // the session that stored it may have died too early
      continue;
    }
    const path = `${directory}/${localNames.object(objectId)}`;
    if (disk.sizeOf(path) === undefined) {
      throw new VolumeError(
        'CORRUPT',
        `opening a volume: object ${formatObjectId(objectId)} of the flushed log is neither in ${directory} nor in the backend`,
      );
    }
    if (!needed.has(objectId)) {
      await sealObject(disk.open(path, 'write'), objectId, writes);
      await store.putFile(key, path);
      continue;
    }
    const copy = `${path}.part`;
    try {
      await sealObject(copyObject(disk, path, copy, clustersOf(writes)), objectId, writes);
      await store.putFile(key, copy);
    } finally {
      disk.remove(copy); // what it takes of a full disk, too
    }
  }
}

/** A new file with the first clusters of another one. */
function copyObject(disk: Disk, from: string, to: string, clusters: number): DiskFile {
  disk.remove(to);
  const source = disk.open(from, 'read');
  try {
    const data = Buffer.alloc(clusters * clusterBytes);
    source.readSync(data, 0);
    const copy = disk.create(to);
    try {
      copy.write([data], 0);
    } catch (error) {
      copy.close();
      throw error;
    }
    return copy;
  } finally {
    source.close();
  }
}

/** Cuts the file behind the clusters of these writes, adds table and footer, syncs and closes it. */
async function sealObject(
  file: DiskFile,
  objectId: number,
  writes: readonly WriteRecord[],
): Promise<void> {
  try {
    const count = clustersOf(writes);
    const checksums = new Uint32Array(count);
    const clusters = new Float64Array(count);
    for (const write of writes) {
      checksums.set(write.checksums, write.index);
      clusters.set(
        Array.from(write.checksums, (_, i) => write.cluster + i),
        write.index,
      );
    }
    file.truncate(count * clusterBytes);
    const tail = encodeObjectTail(objectId, { kind: 'data', checksums, clusters });
    file.write([tail], count * clusterBytes);
    await file.sync();
  } finally {
    file.close();
  }
}

function clustersOf(writes: readonly WriteRecord[]): number {
  return Math.max(0, ...writes.map(({ index, checksums }) => index + checksums.length));
}

function objectsOf(records: readonly LogRecord[]): Set<number> {
  return new Set(writesByObject(records).keys());
}

function writesByObject(records: readonly LogRecord[]): Map<number, WriteRecord[]> {
  const byObject = new Map<number, WriteRecord[]>();
  for (const record of records) {
    if (record.type !== 'write') continue;
    const writes = byObject.get(record.objectId);
    if (writes === undefined) byObject.set(record.objectId, [record]);
    else writes.push(record);
  }
  return byObject;
}
