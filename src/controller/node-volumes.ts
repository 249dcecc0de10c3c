/**
 * The volumes of one node, wherever its volumedriver is at the time of a call: it may be replaced by another pod, or
 * be gone. What it does not answer is told with the node's name and what to do about it.
 */
import { VolumeError } from '../volumes/errors.ts';
import type {
  CreateSnapshotRequest,
  CreateVolumeRequest,
  DriverInfo,
  ExportTarget,
  Page,
  PageRequest,
  RemovalMode,
  SnapshotRef,
  VolumeService,
} from '../volumes/volume-service.ts';
import type { Capacity, ExportAddress, Snapshot, Volume } from '../volumes/volume.ts';

/** What a retry may find mended: gone, stopping, or not trusted yet. */
const unansweredCodes = ['UNAVAILABLE', 'SHUTTING_DOWN', 'PERMISSION_DENIED'] as const;

export class NodeVolumes implements VolumeService {
  readonly #nodeId: string;
  readonly #reach: () => Promise<VolumeService>;

  /** `reach` finds the volumedriver that is there now; UNAVAILABLE when there is none. */
  constructor(nodeId: string, reach: () => Promise<VolumeService>) {
    this.#nodeId = nodeId;
    this.#reach = reach;
  }

  info(): Promise<DriverInfo> {
    return this.#call((volumes) => volumes.info());
  }

  capacity(): Promise<Capacity> {
    return this.#call((volumes) => volumes.capacity());
  }

  createVolume(request: CreateVolumeRequest): Promise<Volume> {
    return this.#call((volumes) => volumes.createVolume(request));
  }

  removeVolume(volume: string, mode: RemovalMode): Promise<void> {
    return this.#call((volumes) => volumes.removeVolume(volume, mode));
  }

  getVolume(volume: string): Promise<Volume> {
    return this.#call((volumes) => volumes.getVolume(volume));
  }

  listVolumes(page: PageRequest): Promise<Page<Volume>> {
    return this.#call((volumes) => volumes.listVolumes(page));
  }

  growVolume(volume: string, sizeBytes: number): Promise<Volume> {
    return this.#call((volumes) => volumes.growVolume(volume, sizeBytes));
  }

  createSnapshot(request: CreateSnapshotRequest): Promise<Snapshot> {
    return this.#call((volumes) => volumes.createSnapshot(request));
  }

  removeSnapshot(snapshot: SnapshotRef, mode: RemovalMode): Promise<void> {
    return this.#call((volumes) => volumes.removeSnapshot(snapshot, mode));
  }

  rollbackSnapshot(snapshot: SnapshotRef): Promise<void> {
    return this.#call((volumes) => volumes.rollbackSnapshot(snapshot));
  }

  getSnapshot(snapshot: SnapshotRef): Promise<Snapshot> {
    return this.#call((volumes) => volumes.getSnapshot(snapshot));
  }

  listSnapshots(
    filter: { volume?: string; snapshot?: string },
    page: PageRequest,
  ): Promise<Page<Snapshot>> {
    return this.#call((volumes) => volumes.listSnapshots(filter, page));
  }

  waitSnapshot(snapshot: SnapshotRef, timeoutSeconds: number): Promise<Snapshot> {
    return this.#call((volumes) => volumes.waitSnapshot(snapshot, timeoutSeconds));
  }

  grant(volume: string, node: string, options: { readOnly: boolean }): Promise<number> {
    return this.#call((volumes) => volumes.grant(volume, node, options));
  }

  revoke(volume: string, node: string | null): Promise<void> {
    return this.#call((volumes) => volumes.revoke(volume, node));
  }

  getExport(target: ExportTarget): Promise<ExportAddress> {
    return this.#call((volumes) => volumes.getExport(target));
  }

  beginFormatting(volume: string, generation: number, filesystem: string): Promise<void> {
    return this.#call((volumes) => volumes.beginFormatting(volume, generation, filesystem));
  }

  endFormatting(volume: string, generation: number): Promise<void> {
    return this.#call((volumes) => volumes.endFormatting(volume, generation));
  }

  syncVolume(volume: string): Promise<void> {
    return this.#call((volumes) => volumes.syncVolume(volume));
  }

  async #call<Result>(work: (volumes: VolumeService) => Promise<Result>): Promise<Result> {
    try {
      return await work(await this.#reach());
    } catch (error) {
      if (!isUnanswered(error)) throw error;
      throw new VolumeError(
        'UNAVAILABLE',
        `node ${this.#nodeId} does not answer: ${error.message}; bring it back, or, when it never comes back, ` +
          `give up its volumes with: vdctl node forget ${this.#nodeId}`,
        { cause: error },
      );
    }
  }
}

function isUnanswered(error: unknown): error is VolumeError {
  return error instanceof VolumeError && unansweredCodes.some((code) => code === error.code);
}
