/**
 * The one interface between whoever serves blocks (nbd) and whoever stores them (volumedriver): neither knows
 * the other. Offsets and lengths are bytes, any alignment. Every method rejects with a VolumeError.
 */
export interface BlockDevice {
  /** Size in bytes now; a grown volume reports its new size at once, on live connections too. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;

  /**
   * Reads `length` bytes. The buffers, together, are exactly that long; holes may be one shared zero buffer,
   * so a caller must not write into them. BEYOND_END past the size, CORRUPT when stored data fails its checksum.
   */
  read(offset: number, length: number): Promise<Buffer[]>;

  /**
   * Tells that a buffer which `read` returned will not be looked at again: the device may use its memory for another
   * read at once. To be called at most once for each of them; not calling it costs garbage, nothing else.
   */
  giveBack?(buffer: Buffer): void;

  /**
   * Writes. Resolves when the write is in the log and a crash of this process cannot lose it; `fua` waits until
   * a power cut cannot lose it either. `data` must stay unchanged until then. Requests issued in one turn of
   * the event loop are applied in the order of the calls.
   */
  write(offset: number, data: Buffer, options: { fua: boolean }): Promise<void>;

  /** Makes the range read as zeroes and gives its space back. `fua` as for write. */
  discard(offset: number, length: number, options: { fua: boolean }): Promise<void>;

  /**
   * Makes the range read as zeroes. `allocate` (NBD_CMD_FLAG_NO_HOLE) asks that later writes there cannot
   * fail for lack of space; a log-structured volume meets it as any copy-on-write store does, by storing zeroes.
   */
  writeZeroes(
    offset: number,
    length: number,
    options: { fua: boolean; allocate: boolean },
  ): Promise<void>;

  /** Everything that was acknowledged before this call survives a power cut once it resolves. */
  flush(): Promise<void>;

  /** Brings the range nearer (NBD_CMD_CACHE); a hint that may do nothing but still reports bad ranges. */
  cache(offset: number, length: number): Promise<void>;

  /**
   * Describes `length` bytes from `offset` as consecutive extents, in order and without gaps. May stop early
   * after `maxExtents`, but always returns at least one and never one that passes the end of the range.
   */
  extents(offset: number, length: number, maxExtents: number): Promise<Extent[]>;

  /** Ends this client's use of the device. Idempotent. Never rejects: a client that goes has nothing to repair. */
  close(): Promise<void>;

  /** Aborted when the device must not be used any more (fenced, removed, shut down); its connections are dropped. */
  readonly revoked: AbortSignal;
}

export interface Extent {
  lengthBytes: number;
  /** Nothing is stored there: it reads as zeroes. */
  hole: boolean;
}

export interface ExportInfo {
  /** What a client sends as export name. */
  name: string;
  description: string;
  sizeBytes: number;
  readOnly: boolean;
}

/** The exports that an NBD server offers. */
export interface ExportProvider {
  /** VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND, VOLUME_IN_USE, FENCED, HALTED, ... when the export can't be opened. */
  open(exportName: string): Promise<BlockDevice>;
  /** Facts about an export without opening it for I/O (NBD_OPT_INFO). */
  info(exportName: string): Promise<ExportInfo>;
  list(): Promise<ExportInfo[]>;
}
