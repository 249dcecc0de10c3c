/** ControllerPublishVolume and ControllerUnpublishVolume: grants, whose generation travels in publish_context. */
import type {
  ControllerPublishVolumeRequest,
  ControllerPublishVolumeResponse,
} from '../api/generated/csi.ts';
import { requireString } from '../csi/validate.ts';
import {
  isReadOnlyMode,
  parseCapability,
  publishContextKeys,
  requireSupported,
} from '../csi/volume-capability.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { DriverInfo, VolumeService } from '../volumes/volume-service.ts';
import type { Volume } from '../volumes/volume.ts';
import { findVolumeById, volumeById } from './messages.ts';
import type { NodeRegistry } from './node-registry.ts';

export interface PublishParts {
  readonly volumes: VolumeService;
  readonly nodes: NodeRegistry;
}

export async function publishVolume(
  { volumes, nodes }: PublishParts,
  request: ControllerPublishVolumeRequest,
): Promise<ControllerPublishVolumeResponse> {
  const volumeId = requireString('volume_id', request.volumeId);
  const nodeId = requireString('node_id', request.nodeId);
  const use = parseCapability('volume_capability', request.volumeCapability);
  const info = await volumes.info();
  requireSupported('volume_capability', use, info);
  const readOnly = request.readonly || isReadOnlyMode(use.accessMode);

  const volume = await volumeById(volumes, volumeId);
  if (!(await nodes.isKnownNode(nodeId))) {
    throw new VolumeError('NODE_NOT_FOUND', `publish volume ${volumeId}: there is no ${nodeId}`);
  }
  checkGrants(volume, { nodeId, readOnly });
  checkReach(volume, { nodeId, info });
  const generation = await grant(volumes, { volumeId, nodeId, readOnly });
  const address = await volumes.getExport({ kind: 'granted', volume: volumeId, generation });
  return {
    publishContext: {
      [publishContextKeys.generation]: String(generation),
      [publishContextKeys.uri]: address.uri,
    },
  };
}

async function grant(
  volumes: VolumeService,
  { volumeId, nodeId, readOnly }: { volumeId: string; nodeId: string; readOnly: boolean },
): Promise<number> {
  try {
    return await volumes.grant(volumeId, nodeId, { readOnly });
  } catch (error) {
    if (!hasCode(error, 'VOLUME_IN_USE')) throw error;
    // Somebody was faster: the caller wants to know which node it is.
    checkGrants(await volumeById(volumes, volumeId), { nodeId, readOnly });
    throw error;
  }
}

/** ALREADY_EXISTS for this node in the other mode, VOLUME_IN_USE with the name of the node that excludes this one. */
function checkGrants(volume: Volume, wanted: { nodeId: string; readOnly: boolean }): void {
  const { nodeId, readOnly } = wanted;
  const own = volume.grants.find((other) => other.node === nodeId);
  if (own !== undefined && own.readOnly !== readOnly) {
    const mode = own.readOnly ? 'read-only' : 'read-write';
    throw new VolumeError(
      'ALREADY_EXISTS',
      `publish volume ${volume.id}: it is published to ${nodeId} ${mode}`,
    );
  }
  const excluding = volume.grants.find(
    (other) => other.node !== nodeId && !(other.readOnly && readOnly),
  );
  if (excluding !== undefined) {
    throw new VolumeError(
      'VOLUME_IN_USE',
      `publish volume ${volume.id}: it is published to node ${excluding.node}`,
    );
  }
}

function checkReach(volume: Volume, where: { nodeId: string; info: DriverInfo }): void {
  const { nodeId, info } = where;
  if (info.shared || info.nodeId === nodeId) return;
  throw new VolumeError(
    'NOT_CAPABLE',
    `publish volume ${volume.id}: its backend is on node ${info.nodeId} and cannot be used from ${nodeId}`,
  );
}

/** Every node when `nodeId` is empty. A volume or grant that is not there is unpublished. */
export async function unpublishVolume(
  volumes: VolumeService,
  { volumeId, nodeId }: { volumeId: string; nodeId: string },
): Promise<void> {
  const volume = await findVolumeById(volumes, volumeId);
  if (volume === undefined) return;
  const granted = volume.grants.some((grant) => nodeId === '' || grant.node === nodeId);
  if (!granted) return;
  try {
    await volumes.revoke(volumeId, nodeId === '' ? null : nodeId);
  } catch (error) {
    if (!hasCode(error, 'VOLUME_NOT_FOUND')) throw error;
  }
}
