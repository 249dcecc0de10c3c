/** TLogs made by hand, for tests of what reads them. */
import { checksumOf, encodeRecord, type LogRecord } from '../../src/volumedriver/format/record.ts';
import {
  encodeTlogHeader,
  headerChecksum,
  linkOf,
  noNonce,
  type TlogHeader,
} from '../../src/volumedriver/format/tlog-header.ts';

export const testVolume = '01ARZ3NDEKTSV4RRFFQ69G5FAV';

/** A nonce that is told apart by one byte. */
export function nonceOf(byte: number): string {
  return byte.toString(16).padStart(2, '0').repeat(16);
}

/** A header whose nonce and link follow from the slot, as if every slot had one writer. */
export function headerOf(slot: number, fields: Partial<TlogHeader> = {}): TlogHeader {
  return {
    volume: testVolume,
    slot,
    epoch: 1,
    writer: 1,
    checkpointSlot: 0,
    boundary: 0,
    nonce: nonceOf(slot),
    replaces: noNonce,
    previous: slot === 1 ? linkOf(noNonce) : linkOf(nonceOf(slot - 1)),
    ...fields,
  };
}

/** The bytes of a TLog; `sealed` adds its end record. */
export function tlogBytes(
  header: TlogHeader,
  records: readonly LogRecord[],
  { sealed = false }: { sealed?: boolean } = {},
): Buffer {
  const head = encodeTlogHeader(header);
  const parts = [head];
  let checksum = headerChecksum(head);
  const all: LogRecord[] = [...records];
  if (sealed) all.push({ type: 'end', count: records.length });
  for (const record of all) {
    const bytes = encodeRecord(record, checksum);
    checksum = checksumOf(bytes);
    parts.push(bytes);
  }
  return Buffer.concat(parts);
}

export function range(cluster: number): LogRecord {
  return { type: 'range', cluster, count: 1 };
}

export function sync(slot: number, offset: number): LogRecord {
  return { type: 'sync', slot, offset };
}
