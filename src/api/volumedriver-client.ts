/**
 * The engine as its clients see it: VolumeService over gRPC. Every call has a deadline; a volumedriver that can't
 * be reached or doesn't answer in time is UNAVAILABLE, and the work may have been done. Arguments are checked
 * here too, because a number that the wire can't carry would otherwise fail inside the encoder.
 */
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
import { requireInteger } from './arguments.ts';
import type { Endpoint } from './endpoint.ts';
import { VolumedriverService as rpc } from './generated/volumedriver.ts';
import { GrpcPeer, type UnaryMethod } from './grpc-client.ts';
import type { PeerTls } from './tls/peer-credentials.ts';
import {
  flushToWire,
  modeToWire,
  snapshotRefToWire,
  sourceToWire,
  targetToWire,
  volumeFromWire,
} from './volumedriver-convert.ts';

export interface VolumedriverClientOptions {
  /** For a volumedriver on another machine. */
  tls?: PeerTls;
  /** For calls that only look or change a record. */
  timeoutMs?: number;
  /** For calls that may have to flush or drain first. */
  slowTimeoutMs?: number;
  /** For a snapshot that is waited for without a timeout of its own. */
  unlimitedSnapshotTimeoutMs?: number;
}

const uint32Max = 0xffff_ffff;

export class VolumedriverClient implements VolumeService {
  readonly #peer: GrpcPeer;
  readonly #timeoutMs: number;
  readonly #slowTimeoutMs: number;
  readonly #unlimitedSnapshotTimeoutMs: number;

  constructor(endpoint: Endpoint, options: VolumedriverClientOptions = {}) {
    this.#peer = new GrpcPeer('the volumedriver', endpoint, options.tls);
    this.#timeoutMs = options.timeoutMs ?? 30_000;
    this.#slowTimeoutMs = options.slowTimeoutMs ?? 120_000;
    this.#unlimitedSnapshotTimeoutMs = options.unlimitedSnapshotTimeoutMs ?? 24 * 3600 * 1000;
  }

  close(): void {
    this.#peer.close();
  }

  async info(): Promise<DriverInfo> {
    return await this.#call(rpc.getInfo, {});
  }

  async capacity(): Promise<Capacity> {
    return await this.#call(rpc.getCapacity, {});
  }

  async createVolume(request: CreateVolumeRequest): Promise<Volume> {
    const volume = await this.#call(rpc.createVolume, {
      name: request.name,
      sizeBytes: requireInteger('size_bytes', request.sizeBytes),
      source: request.source === undefined ? undefined : sourceToWire(request.source),
      flushTo: flushToWire(request.flushTo),
    });
    return volumeFromWire(volume);
  }

  async removeVolume(volume: string, mode: RemovalMode): Promise<void> {
    await this.#call(rpc.removeVolume, { volume, mode: modeToWire(mode) });
  }

  async getVolume(volume: string): Promise<Volume> {
    return volumeFromWire(await this.#call(rpc.getVolume, { volume }));
  }

  async listVolumes(page: PageRequest): Promise<Page<Volume>> {
    const { volumes, nextToken } = await this.#call(rpc.listVolumes, pageToWire(page));
    return pageOf(volumes.map(volumeFromWire), nextToken);
  }

  async growVolume(volume: string, sizeBytes: number): Promise<Volume> {
    const request = { volume, sizeBytes: requireInteger('size_bytes', sizeBytes) };
    return volumeFromWire(await this.#call(rpc.growVolume, request));
  }

  async createSnapshot(request: CreateSnapshotRequest): Promise<Snapshot> {
    const timeoutSeconds = requireInteger('timeout_seconds', request.timeoutSeconds, {
      min: Number.MIN_SAFE_INTEGER,
    });
    const { volume, name, claimName = false } = request;
    return await this.#call(
      rpc.createSnapshot,
      { volume, name, timeoutSeconds, claimName },
      this.#snapshotTimeoutMs(timeoutSeconds),
    );
  }

  async removeSnapshot(snapshot: SnapshotRef, mode: RemovalMode): Promise<void> {
    const request = { snapshot: snapshotRefToWire(snapshot), mode: modeToWire(mode) };
    await this.#call(rpc.removeSnapshot, request);
  }

  async rollbackSnapshot(snapshot: SnapshotRef): Promise<void> {
    const request = { snapshot: snapshotRefToWire(snapshot) };
    await this.#call(rpc.rollbackSnapshot, request, this.#slowTimeoutMs);
  }

  async getSnapshot(snapshot: SnapshotRef): Promise<Snapshot> {
    return await this.#call(rpc.getSnapshot, { snapshot: snapshotRefToWire(snapshot) });
  }

  async listSnapshots(
    filter: { volume?: string; snapshot?: string },
    page: PageRequest,
  ): Promise<Page<Snapshot>> {
    const { snapshots, nextToken } = await this.#call(rpc.listSnapshots, {
      volume: filter.volume ?? '',
      snapshot: filter.snapshot ?? '',
      ...pageToWire(page),
    });
    return pageOf(snapshots, nextToken);
  }

  async waitSnapshot(snapshot: SnapshotRef, timeoutSeconds: number): Promise<Snapshot> {
    requireInteger('timeout_seconds', timeoutSeconds);
    const request = { snapshot: snapshotRefToWire(snapshot), timeoutSeconds };
    return await this.#call(rpc.waitSnapshot, request, timeoutSeconds * 1000 + this.#timeoutMs);
  }

  async grant(volume: string, node: string, options: { readOnly: boolean }): Promise<number> {
    const request = { volume, node, readOnly: options.readOnly };
    const { generation } = await this.#call(rpc.grant, request);
    return generation;
  }

  async revoke(volume: string, node: string | null): Promise<void> {
    await this.#call(rpc.revoke, { volume, node: node ?? '' }, this.#slowTimeoutMs);
  }

  async getExport(target: ExportTarget): Promise<ExportAddress> {
    if (target.kind === 'granted') requireInteger('generation', target.generation);
    return await this.#call(rpc.getExport, targetToWire(target));
  }

  async beginFormatting(volume: string, generation: number, filesystem: string): Promise<void> {
    requireInteger('generation', generation);
    await this.#call(rpc.beginFormatting, { volume, generation, filesystem });
  }

  async endFormatting(volume: string, generation: number): Promise<void> {
    requireInteger('generation', generation);
    await this.#call(rpc.endFormatting, { volume, generation }, this.#slowTimeoutMs);
  }

  async syncVolume(volume: string): Promise<void> {
    await this.#call(rpc.syncVolume, { volume }, this.#slowTimeoutMs);
  }

  /** libovsvolumedriver(7): negative returns at once, zero waits without limit. */
  #snapshotTimeoutMs(timeoutSeconds: number): number {
    if (timeoutSeconds < 0) return this.#slowTimeoutMs;
    if (timeoutSeconds === 0) return this.#unlimitedSnapshotTimeoutMs;
    return timeoutSeconds * 1000 + this.#timeoutMs;
  }

  #call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
    timeoutMs: number = this.#timeoutMs,
  ): Promise<Response> {
    return this.#peer.call(method, request, timeoutMs);
  }
}

function pageToWire(page: PageRequest): { limit: number; startToken: string } {
  return {
    limit: requireInteger('limit', page.limit ?? 0, { max: uint32Max }),
    startToken: page.startToken ?? '',
  };
}

function pageOf<Item>(items: Item[], nextToken: string): Page<Item> {
  return nextToken === '' ? { items } : { items, nextToken };
}
