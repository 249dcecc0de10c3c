/** Plain data about volumes and snapshots, as every role sees it. Sizes are bytes, times milliseconds since 1970. */

/** The largest volume that the formats hold: 64 TiB. */
export const volumeBytesMax = 64 * 2 ** 40;

/** Where a FLUSH must have put data before it is answered. */
export const flushTargets = ['local', 'backend'] as const;
export type FlushTarget = (typeof flushTargets)[number];

export interface Volume {
  /** BACKENDID.ULID, unique everywhere. */
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdAtMs: number;
  /** The snapshot or volume that this one was made from. */
  readonly source: VolumeSource | null;
  readonly flushTo: FlushTarget;
  /** Nodes that may use the volume now: one read-write, or several read-only. */
  readonly grants: readonly Grant[];
  /** The highest generation ever given for this volume. */
  readonly generation: number;
  /** False until the first write or discard; a clone starts with its source's value. Only then may it be formatted. */
  readonly written: boolean;
  /** The filesystem that is being made, while a formatting mark is set. */
  readonly formatting: string | null;
  /** Bytes of data that only this volume and its snapshots use, in the backend and the local log. */
  readonly usedBytes: number;
  /** Connected NBD clients. */
  readonly clients: number;
  /** Why the volume stopped after a failed write or sync; null while it works. */
  readonly halted: string | null;
}

export type VolumeSource =
  | { readonly kind: 'snapshot'; readonly snapshotId: string }
  | { readonly kind: 'volume'; readonly volumeId: string };

export interface Grant {
  readonly node: string;
  readonly readOnly: boolean;
  /** What ControllerPublish returned and NodeStage presents. */
  readonly generation: number;
}

export interface Snapshot {
  /** BACKENDID.ULID of the snapshot. */
  readonly id: string;
  /** Unique within its volume. */
  readonly name: string;
  readonly volumeId: string;
  readonly createdAtMs: number;
  /** The volume's size when it was taken. */
  readonly sizeBytes: number;
  /** In the backend, so that another node could open it (ovs_snapshot_is_synced). */
  readonly synced: boolean;
}

export interface Capacity {
  readonly totalBytes: number;
  /** Free bytes that new data may use: the reserve is already taken off. */
  readonly availableBytes: number;
}

/** How an attacher or client reaches an export. */
export interface ExportAddress {
  readonly exportName: string;
  /** nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME. */
  readonly uri: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}
