/**
 * CSI calls as the sidecars and a kubelet make them, one after the other, against a driver that runs. A pod here is
 * one ext4 volume on its way: created, published, staged, bound at a target; and all the way back.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  ControllerService,
  NodeService,
  VolumeCapability_AccessMode_Mode,
  type VolumeCapability,
} from '../../src/api/generated/csi.ts';
import { GrpcPeer, type UnaryMethod } from '../../src/api/grpc-client.ts';
import { hasCode } from '../../src/volumes/errors.ts';

const callMs = 60_000;
const mode = VolumeCapability_AccessMode_Mode.SINGLE_NODE_WRITER;
const volumeCapability: VolumeCapability = {
  accessMode: { mode },
  accessType: { $case: 'mount', value: { fsType: 'ext4', mountFlags: [], volumeMountGroup: '' } },
};
const secrets = {};

export interface Pod {
  readonly volumeId: string;
  readonly stagingPath: string;
  /** Where the filesystem is to be used. */
  readonly targetPath: string;
}

export class CsiClient {
  readonly #peer: GrpcPeer;
  readonly #nodeId: string;
  /** How long a call is repeated that fails for the moment only, as the sidecars and the kubelet do. */
  readonly #repeatMs: number;

  constructor(socketPath: string, options: { nodeId: string; repeatMs?: number }) {
    this.#peer = new GrpcPeer('the driver', { kind: 'unix', path: socketPath });
    this.#nodeId = options.nodeId;
    this.#repeatMs = options.repeatMs ?? 0;
  }

  close(): void {
    this.#peer.close();
  }

  async startPod(folder: string, name: string, sizeBytes: number): Promise<Pod> {
    const volumeId = await this.createVolume(name, sizeBytes);
    const stagingPath = join(folder, `${name}-staging`);
    const targetPath = join(folder, `${name}-target`);
    mkdirSync(stagingPath, { recursive: true });
    const pod = { volumeId, stagingPath, targetPath };
    await this.publish(pod);
    return pod;
  }

  async createVolume(name: string, sizeBytes: number): Promise<string> {
    const { volume } = await this.#call(ControllerService.createVolume, {
      name,
      capacityRange: { requiredBytes: sizeBytes, limitBytes: 0 },
      volumeCapabilities: [volumeCapability],
      parameters: {},
      mutableParameters: {},
      secrets,
      volumeContentSource: undefined,
      accessibilityRequirements: undefined,
    });
    return volume?.volumeId ?? '';
  }

  async publish(pod: Pod): Promise<void> {
    const { volumeId, stagingPath, targetPath } = pod;
    const { publishContext } = await this.#call(ControllerService.controllerPublishVolume, {
      ...{ volumeId, nodeId: this.#nodeId, volumeCapability, readonly: false },
      ...{ secrets, volumeContext: {} },
    });
    const stagingTargetPath = stagingPath;
    const common = { volumeId, publishContext, stagingTargetPath, volumeCapability, secrets };
    await this.#call(NodeService.nodeStageVolume, { ...common, volumeContext: {} });
    const publish = { ...common, targetPath, readonly: false, volumeContext: {} };
    await this.#call(NodeService.nodePublishVolume, publish);
  }

  async unpublish({ volumeId, stagingPath, targetPath }: Pod): Promise<void> {
    const stagingTargetPath = stagingPath;
    await this.#call(NodeService.nodeUnpublishVolume, { volumeId, targetPath });
    await this.#call(NodeService.nodeUnstageVolume, { volumeId, stagingTargetPath });
    const nodeId = this.#nodeId;
    await this.#call(ControllerService.controllerUnpublishVolume, { volumeId, nodeId, secrets });
  }

  async expand(pod: Pod, sizeBytes: number): Promise<void> {
    const { volumeId, stagingPath: stagingTargetPath, targetPath: volumePath } = pod;
    const capacityRange = { requiredBytes: sizeBytes, limitBytes: 0 };
    const common = { volumeId, capacityRange, volumeCapability, secrets };
    await this.#call(ControllerService.controllerExpandVolume, common);
    const paths = { volumePath, stagingTargetPath };
    await this.#call(NodeService.nodeExpandVolume, { ...common, ...paths });
  }

  async deleteVolume({ volumeId }: Pod): Promise<void> {
    await this.#call(ControllerService.deleteVolume, { volumeId, secrets });
  }

  async removePod(pod: Pod): Promise<void> {
    await this.unpublish(pod);
    await this.deleteVolume(pod);
  }

  async #call<Request, Response>(
    method: UnaryMethod<Request, Response>,
    request: Request,
  ): Promise<Response> {
    const deadline = performance.now() + this.#repeatMs;
    for (;;) {
      try {
        return await this.#peer.call(method, request, callMs);
      } catch (error) {
        const passing = hasCode(error, 'UNAVAILABLE') || hasCode(error, 'OPERATION_PENDING');
        if (!passing || performance.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    }
  }
}
