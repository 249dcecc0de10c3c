/** The TLog that is being written: a local file of a header and chained records (format/record.ts). */
import type { DiskFile } from '../disk/disk.ts';
import { checksumOf, encodeRecord, type LogRecord } from '../format/record.ts';
import {
  encodeTlogHeader,
  headerChecksum,
  tlogHeaderBytes,
  type TlogHeader,
} from '../format/tlog-header.ts';

export class OpenTlog {
  readonly header: TlogHeader;
  readonly file: DiskFile;
  #sizeBytes = tlogHeaderBytes;
  #checksum: number;
  #records = 0;

  /** Writes the header into `file`, which is new and empty. */
  constructor(header: TlogHeader, file: DiskFile) {
    this.header = header;
    this.file = file;
    const bytes = encodeTlogHeader(header);
    file.write([bytes], 0);
    this.#checksum = headerChecksum(bytes);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get records(): number {
    return this.#records;
  }

  /** Appends all of them or none: a failed write leaves the TLog as it was. */
  append(records: readonly LogRecord[]): void {
    const buffers: Buffer[] = [];
    let checksum = this.#checksum;
    let length = 0;
    for (const record of records) {
      const bytes = encodeRecord(record, checksum);
      checksum = checksumOf(bytes);
      length += bytes.length;
      buffers.push(bytes);
    }
    try {
      this.file.write(buffers, this.#sizeBytes);
    } catch (error) {
      // What a failed write left behind must not look like records of this log after the next one.
      this.file.truncate(this.#sizeBytes);
      throw error;
    }
    this.#sizeBytes += length;
    this.#checksum = checksum;
    this.#records += records.length;
  }

  seal(): void {
    this.append([{ type: 'end', count: this.#records }]);
  }
}
