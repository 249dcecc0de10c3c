/**
 * A CSI client of the driver's one socket: the same calls that Kubernetes' sidecars and the kubelet make, each with a
 * time limit, and with arguments that fit one machine.
 */
import {
  ControllerService,
  CreateSnapshotRequest,
  CreateVolumeRequest,
  IdentityService,
  NodeService,
  VolumeCapability,
  VolumeCapability_AccessMode_Mode,
  type Snapshot,
} from '../../src/api/generated/csi.ts';
import type { Endpoint } from '../../src/api/endpoint.ts';
import { GrpcPeer, type UnaryMethod } from '../../src/api/grpc-client.ts';
import { VolumeError } from '../../src/volumes/errors.ts';

export const nodeId = 'demo-node';
const callMs = 60_000;

/** How a volume is used: mounted with this filesystem, or as a block device without one. */
export type Use = 'xfs' | 'ext4' | 'block';

export interface VolumeRequest {
  readonly name: string;
  readonly sizeBytes: number;
  readonly use: Use;
  /** Makes a clone. */
  readonly snapshotId?: string;
}

export class CsiClient {
  readonly #peer: GrpcPeer;

  constructor(endpoint: Endpoint) {
    this.#peer = new GrpcPeer('the CSI driver', endpoint);
  }

  close(): void {
    this.#peer.close();
  }

  /** False while the volumedriver does not answer. */
  async isReady(): Promise<boolean> {
    const { ready } = await this.#call(IdentityService.probe, {});
    return ready ?? false;
  }

  /** Resolves with the volume's id. */
  async createVolume({ name, sizeBytes, use, snapshotId }: VolumeRequest): Promise<string> {
    const request = CreateVolumeRequest.fromPartial({
      name,
      capacityRange: { requiredBytes: sizeBytes },
      volumeCapabilities: [capability(use)],
      ...(snapshotId !== undefined && {
        volumeContentSource: { type: { $case: 'snapshot', value: { snapshotId } } },
      }),
    });
    const { volume } = await this.#call(ControllerService.createVolume, request);
    return required(volume, 'CreateVolume').volumeId;
  }

  async deleteVolume(volumeId: string): Promise<void> {
    await this.#call(ControllerService.deleteVolume, { volumeId, secrets: {} });
  }

  async listVolumes(): Promise<string[]> {
    const request = { maxEntries: 0, startingToken: '' };
    const { entries } = await this.#call(ControllerService.listVolumes, request);
    return entries.map(({ volume }) => volume?.volumeId ?? '');
  }

  async createSnapshot(sourceVolumeId: string, name: string): Promise<Snapshot> {
    const request = CreateSnapshotRequest.fromPartial({ sourceVolumeId, name });
    const { snapshot } = await this.#call(ControllerService.createSnapshot, request);
    return required(snapshot, 'CreateSnapshot');
  }

  async deleteSnapshot(snapshotId: string): Promise<void> {
    await this.#call(ControllerService.deleteSnapshot, { snapshotId, secrets: {} });
  }

  async listSnapshots(snapshotId = ''): Promise<Snapshot[]> {
    const { entries } = await this.#call(ControllerService.listSnapshots, {
      maxEntries: 0,
      startingToken: '',
      sourceVolumeId: '',
      snapshotId,
      secrets: {},
    });
    return entries.flatMap(({ snapshot }) => snapshot ?? []);
  }

  /** Lets this node use the volume; the answer travels to NodeStageVolume. */
  async controllerPublish(volumeId: string, use: Use): Promise<Record<string, string>> {
    const { publishContext } = await this.#call(ControllerService.controllerPublishVolume, {
      volumeId,
      nodeId,
      volumeCapability: capability(use),
      readonly: false,
      secrets: {},
      volumeContext: {},
    });
    return publishContext;
  }

  async controllerUnpublish(volumeId: string): Promise<void> {
    const request = { volumeId, nodeId, secrets: {} };
    await this.#call(ControllerService.controllerUnpublishVolume, request);
  }

  async nodeStage(volume: MountedVolume, publishContext: Record<string, string>): Promise<void> {
    await this.#call(NodeService.nodeStageVolume, {
      volumeId: volume.id,
      publishContext,
      stagingTargetPath: volume.stagingPath,
      volumeCapability: capability(volume.use),
      secrets: {},
      volumeContext: {},
    });
  }

  async nodePublish(volume: MountedVolume, publishContext: Record<string, string>): Promise<void> {
    await this.#call(NodeService.nodePublishVolume, {
      volumeId: volume.id,
      publishContext,
      stagingTargetPath: volume.stagingPath,
      targetPath: volume.targetPath,
      volumeCapability: capability(volume.use),
      readonly: false,
      secrets: {},
      volumeContext: {},
    });
  }

  async nodeUnpublish({ id, targetPath }: MountedVolume): Promise<void> {
    await this.#call(NodeService.nodeUnpublishVolume, { volumeId: id, targetPath });
  }

  async nodeUnstage({ id, stagingPath }: MountedVolume): Promise<void> {
    const request = { volumeId: id, stagingTargetPath: stagingPath };
    await this.#call(NodeService.nodeUnstageVolume, request);
  }

  async controllerExpand(volumeId: string, sizeBytes: number, use: Use): Promise<void> {
    await this.#call(ControllerService.controllerExpandVolume, {
      volumeId,
      capacityRange: { requiredBytes: sizeBytes, limitBytes: 0 },
      secrets: {},
      volumeCapability: capability(use),
    });
  }

  async nodeExpand(volume: MountedVolume, sizeBytes: number): Promise<void> {
    await this.#call(NodeService.nodeExpandVolume, {
      volumeId: volume.id,
      volumePath: volume.targetPath,
      capacityRange: { requiredBytes: sizeBytes, limitBytes: 0 },
      stagingTargetPath: volume.stagingPath,
      volumeCapability: capability(volume.use),
      secrets: {},
    });
  }

  #call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
  ): Promise<Response> {
    return this.#peer.call(method, request, callMs);
  }
}

export interface MountedVolume {
  readonly id: string;
  readonly use: Use;
  readonly stagingPath: string;
  readonly targetPath: string;
}

function capability(use: Use): VolumeCapability {
  return VolumeCapability.fromPartial({
    accessMode: { mode: VolumeCapability_AccessMode_Mode.SINGLE_NODE_WRITER },
    accessType:
      use === 'block' ? { $case: 'block', value: {} } : { $case: 'mount', value: { fsType: use } },
  });
}

function required<Value>(value: Value | undefined, rpc: string): Value {
  if (value !== undefined) return value;
  throw new VolumeError('PROTOCOL_ERROR', `${rpc}: the answer is empty`);
}
