/**
 * Pods as a kubelet and the sidecars start them: the CSI calls from CreateVolume to a published mount, each timed, and
 * all the way back. Mounts need root.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  ControllerService,
  NodeService,
  VolumeCapability_AccessMode_Mode,
  type VolumeCapability,
} from '../src/api/generated/csi.ts';
import { GrpcPeer } from '../src/api/grpc-client.ts';

const callMs = 60_000;
const secrets = {};

/** Milliseconds of each call, in the order in which they are made. */
export interface PodTimes {
  createMs: number;
  controllerPublishMs: number;
  stageMs: number;
  publishMs: number;
  totalMs: number;
}

export interface Pod {
  readonly volumeId: string;
  readonly stagingTargetPath: string;
  readonly targetPath: string;
}

export class Pods {
  readonly #peer: GrpcPeer;
  readonly #nodeId: string;
  readonly #directory: string;

  /** Mount points are made below `directory`. */
  constructor(socketPath: string, options: { nodeId: string; directory: string }) {
    this.#peer = new GrpcPeer('the driver', { kind: 'unix', path: socketPath });
    this.#nodeId = options.nodeId;
    this.#directory = options.directory;
  }

  close(): void {
    this.#peer.close();
  }

  async start(
    name: string,
    volume: { fsType: string; sizeBytes: number },
  ): Promise<{ pod: Pod; times: PodTimes }> {
    const volumeCapability = capability(volume.fsType);
    const startMs = performance.now();
    const volumeId = await this.#create(name, volume.sizeBytes, volumeCapability);
    const createdMs = performance.now();
    const { publishContext } = await this.#peer.call(
      ControllerService.controllerPublishVolume,
      {
        ...{ volumeId, nodeId: this.#nodeId, volumeCapability, readonly: false },
        ...{ secrets, volumeContext: {} },
      },
      callMs,
    );
    const grantedMs = performance.now();
    const pod = {
      volumeId,
      stagingTargetPath: join(this.#directory, `${name}-staging`),
      targetPath: join(this.#directory, `${name}-target`),
    };
    await mkdir(pod.stagingTargetPath, { recursive: true });
    const request = { ...pod, publishContext, volumeCapability, secrets, volumeContext: {} };
    await this.#peer.call(NodeService.nodeStageVolume, request, callMs);
    const stagedMs = performance.now();
    await this.#peer.call(NodeService.nodePublishVolume, { ...request, readonly: false }, callMs);
    const endMs = performance.now();
    const times = {
      createMs: createdMs - startMs,
      controllerPublishMs: grantedMs - createdMs,
      stageMs: stagedMs - grantedMs,
      publishMs: endMs - stagedMs,
      totalMs: endMs - startMs,
    };
    return { pod, times };
  }

  async remove({ volumeId, stagingTargetPath, targetPath }: Pod): Promise<void> {
    const peer = this.#peer;
    await peer.call(NodeService.nodeUnpublishVolume, { volumeId, targetPath }, callMs);
    await peer.call(NodeService.nodeUnstageVolume, { volumeId, stagingTargetPath }, callMs);
    const unpublish = { volumeId, nodeId: this.#nodeId, secrets };
    await peer.call(ControllerService.controllerUnpublishVolume, unpublish, callMs);
    await peer.call(ControllerService.deleteVolume, { volumeId, secrets }, callMs);
  }

  async #create(
    name: string,
    sizeBytes: number,
    volumeCapability: VolumeCapability,
  ): Promise<string> {
    const { volume } = await this.#peer.call(
      ControllerService.createVolume,
      {
        name,
        capacityRange: { requiredBytes: sizeBytes, limitBytes: 0 },
        volumeCapabilities: [volumeCapability],
        parameters: {},
        mutableParameters: {},
        secrets,
        volumeContentSource: undefined,
        accessibilityRequirements: undefined,
      },
      callMs,
    );
    if (volume === undefined) throw new Error(`CreateVolume ${name}: the answer has no volume`);
    return volume.volumeId;
  }
}

function capability(fsType: string): VolumeCapability {
  return {
    accessMode: { mode: VolumeCapability_AccessMode_Mode.SINGLE_NODE_WRITER },
    accessType: { $case: 'mount', value: { fsType, mountFlags: [], volumeMountGroup: '' } },
  };
}
