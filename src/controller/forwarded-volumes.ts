/** A VolumeService that somebody else is behind: every call goes through one function. */
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

/** Does a piece of work with the service that is behind it at the time. */
export type Forward = <Result>(
  work: (volumes: VolumeService) => Promise<Result>,
) => Promise<Result>;

export class ForwardedVolumes implements VolumeService {
  readonly #call: Forward;

  constructor(forward: Forward) {
    this.#call = forward;
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
}
