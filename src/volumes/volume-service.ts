/**
 * What a volumedriver does, as its API server offers it and its API client calls it. `volume` and `snapshot`
 * arguments take an id or a name (id first). Every call can be repeated and ends in the same state; a call on
 * a volume with another operation under way rejects with OPERATION_PENDING. Reads take no lock.
 */
import type {
  Capacity,
  ExportAddress,
  FlushTarget,
  Snapshot,
  Volume,
  VolumeSource,
} from './volume.ts';

export interface CreateVolumeRequest {
  /** Any Unicode without control characters, 1 to 128 bytes of UTF-8. */
  name: string;
  /** Rounded up to a whole cluster (4096 bytes). */
  sizeBytes: number;
  source?: VolumeSource;
  flushTo?: FlushTarget;
}

/** strict: HAS_CLONES while clones exist. deferred: hidden now, its data kept until the last clone is gone. */
export type RemovalMode = 'strict' | 'deferred';

export interface Page<Item> {
  items: Item[];
  /** Pass as `startToken` for the next page; absent on the last one. */
  nextToken?: string;
}

export interface PageRequest {
  /** 0 or absent: as many as the server likes. */
  limit?: number;
  /** BAD_PAGE_TOKEN when it did not come from an earlier page. */
  startToken?: string;
}

export interface CreateSnapshotRequest {
  volume: string;
  name: string;
  /**
   * libovsvolumedriver(7): negative returns at once, 0 waits until synced, positive waits so many seconds and then
   * removes the snapshot again with SNAPSHOT_TIMEOUT.
   */
  timeoutSeconds: number;
  /** Claims the name backend-wide (CSI): ALREADY_EXISTS when another volume has a snapshot of this claimed name. */
  claimName?: boolean;
}

export interface DriverInfo {
  version: string;
  nodeId: string;
  backendId: string;
  /** The backend can be opened by any node. */
  shared: boolean;
  /** False while it is still starting up. */
  ready: boolean;
}

export interface VolumeService {
  info(): Promise<DriverInfo>;
  capacity(): Promise<Capacity>;

  /** Same name and same request: the existing volume. ALREADY_EXISTS when size, source or parameters differ. */
  createVolume(request: CreateVolumeRequest): Promise<Volume>;
  /** VOLUME_NOT_FOUND when unknown; VOLUME_IN_USE with a grant or client. */
  removeVolume(volume: string, mode: RemovalMode): Promise<void>;
  getVolume(volume: string): Promise<Volume>;
  listVolumes(page: PageRequest): Promise<Page<Volume>>;
  /** Never shrinks: OUT_OF_RANGE. */
  growVolume(volume: string, sizeBytes: number): Promise<Volume>;

  /** Same name on the same volume: ALREADY_EXISTS, except with claimName, which returns the existing one. */
  createSnapshot(request: CreateSnapshotRequest): Promise<Snapshot>;
  removeSnapshot(snapshot: SnapshotRef, mode: RemovalMode): Promise<void>;
  /** Drops newer snapshots. VOLUME_IN_USE with a grant or client; HAS_CLONES when a newer snapshot has one. */
  rollbackSnapshot(snapshot: SnapshotRef): Promise<void>;
  getSnapshot(snapshot: SnapshotRef): Promise<Snapshot>;
  /** All snapshots, oldest first, or those of one volume, or the one with this id or claimed name. */
  listSnapshots(
    filter: { volume?: string; snapshot?: string },
    page: PageRequest,
  ): Promise<Page<Snapshot>>;
  /** Resolves once synced; SNAPSHOT_TIMEOUT after `timeoutSeconds` (the snapshot stays). */
  waitSnapshot(snapshot: SnapshotRef, timeoutSeconds: number): Promise<Snapshot>;

  /** Lets `node` use the volume and returns the generation. VOLUME_IN_USE when granted elsewhere. Repeatable. */
  grant(volume: string, node: string, options: { readOnly: boolean }): Promise<number>;
  /** Takes the grant of `node`, or of all nodes, and raises the generation: its connections are dropped. */
  revoke(volume: string, node: string | null): Promise<void>;
  /**
   * The export to open under the grant with this generation (as ControllerPublish returned it), or the plain or
   * snapshot export without one. FENCED when the generation is not granted any more.
   */
  getExport(target: ExportTarget): Promise<ExportAddress>;

  /** Sets the durable mark that mkfs is under way. NOT_CAPABLE when the volume was written without one. */
  beginFormatting(volume: string, generation: number, filesystem: string): Promise<void>;
  /** Clears the mark, durably, after everything written so far has been flushed. */
  endFormatting(volume: string, generation: number): Promise<void>;
  /** Everything acknowledged so far is durable when it resolves (NodeUnstage). */
  syncVolume(volume: string): Promise<void>;
}

/** A snapshot by its own id (`volume` absent), or by name within a volume. */
export interface SnapshotRef {
  volume?: string;
  snapshot: string;
}

export type ExportTarget =
  | { kind: 'granted'; volume: string; generation: number }
  | { kind: 'plain'; volume: string }
  | { kind: 'snapshot'; snapshot: SnapshotRef };
