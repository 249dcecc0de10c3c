/** The TLog that is being written: a local file of a header and chained records (format/record.ts). */
import type { DiskFile } from '../disk/disk.ts';
import { encodeRecords, type LogRecord } from '../format/record.ts';
import { encodeTlogHeader, headerChecksum, type TlogHeader } from '../format/tlog-header.ts';
import { SyncAppender } from './sync-appender.ts';

export class OpenTlog {
  readonly header: TlogHeader;
  readonly file: DiskFile;
  readonly #appender: SyncAppender;
  #checksum: number;
  #records = 0;

  /** Writes the header into `file`, which is new and empty. */
  constructor(header: TlogHeader, file: DiskFile) {
    this.header = header;
    this.file = file;
    const bytes = encodeTlogHeader(header);
    this.#appender = new SyncAppender(file, { position: 0 });
    this.#appender.append([bytes]);
    this.#checksum = headerChecksum(bytes);
  }

  get sizeBytes(): number {
    return this.#appender.position;
  }

  get records(): number {
    return this.#records;
  }

  /** Appends all of them or none: a failed write leaves the TLog as it was. */
  append(records: readonly LogRecord[]): void {
    const { bytes, checksum } = encodeRecords(records, this.#checksum);
    try {
      this.#appender.append([bytes]);
    } catch (error) {
      // What a failed write left behind must not look like records of this log after the next one.
      this.file.truncate(this.#appender.position);
      throw error;
    }
    this.#checksum = checksum;
    this.#records += records.length;
  }

  seal(): void {
    this.append([{ type: 'end', count: this.#records }]);
  }
}
