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
import { allPages } from '../volumes/all-pages.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import type { Volume } from '../volumes/volume.ts';
import { findVolumeById, volumeById } from './messages.ts';
import type { NodeRegistry } from './node-registry.ts';
import {
  findVolumedriver,
  requireVolumedriver,
  type Volumedriver,
  type Volumedrivers,
} from './volumedrivers.ts';

export interface PublishParts {
  readonly volumedrivers: Volumedrivers;
  readonly nodes: NodeRegistry;
  /** The most volumes that may be published to one node. */
  readonly attachLimit: number;
}

export async function publishVolume(
  { volumedrivers, nodes, attachLimit }: PublishParts,
  request: ControllerPublishVolumeRequest,
): Promise<ControllerPublishVolumeResponse> {
  const volumeId = requireString('volume_id', request.volumeId);
  const nodeId = requireString('node_id', request.nodeId);
  const use = parseCapability('volume_capability', request.volumeCapability);
  const volumedriver = await requireVolumedriver(volumedrivers, volumeId, 'VOLUME_NOT_FOUND');
  requireSupported('volume_capability', use, volumedriver);
  const readOnly = request.readonly || isReadOnlyMode(use.accessMode);

  const { volumes } = volumedriver;
  const volume = await volumeById(volumes, volumeId);
  if (!(await nodes.isKnownNode(nodeId))) {
    throw new VolumeError('NODE_NOT_FOUND', `publish volume ${volumeId}: there is no ${nodeId}`);
  }
  checkGrants(volume, { nodeId, readOnly });
  checkReach(volume, { nodeId, volumedriver });
  if (!volume.grants.some((one) => one.node === nodeId)) {
    await checkLimit(volumes, { volumeId, nodeId, attachLimit });
  }
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

function checkReach(
  volume: Volume,
  { nodeId, volumedriver }: { nodeId: string; volumedriver: Volumedriver },
): void {
  if (volumedriver.shared || volumedriver.nodeId === nodeId) return;
  throw new VolumeError(
    'NOT_CAPABLE',
    `publish volume ${volume.id}: it is on node ${volumedriver.nodeId} and cannot be used from ${nodeId}`,
  );
}

/**
 * LIMIT_REACHED when the node has as many volumes as it may have. Kubernetes counts, too, and calls that run at the
 * same time may go past the limit by a few: it is there to keep a node from drowning.
 */
async function checkLimit(
  volumes: VolumeService,
  wanted: { volumeId: string; nodeId: string; attachLimit: number },
): Promise<void> {
  const { volumeId, nodeId, attachLimit } = wanted;
  let published = 0;
  for await (const { grants } of allPages((page) => volumes.listVolumes(page))) {
    if (grants.some((one) => one.node === nodeId)) published += 1;
    if (published >= attachLimit) break;
  }
  if (published < attachLimit) return;
  throw new VolumeError(
    'LIMIT_REACHED',
    `publish volume ${volumeId}: node ${nodeId} has ${published} volumes, and the limit is ${attachLimit}`,
  );
}

/**
 * Every node when `nodeId` is empty. A volume or grant that is not there is unpublished. So is a volume that is only on
 * a node of which somebody says that nothing runs there any more: nobody can be using it.
 */
export async function unpublishVolume(
  { volumedrivers, nodes }: Pick<PublishParts, 'volumedrivers' | 'nodes'>,
  { volumeId, nodeId }: { volumeId: string; nodeId: string },
): Promise<void> {
  const volumedriver = await findVolumedriver(volumedrivers, volumeId);
  if (typeof volumedriver === 'string') return;
  try {
    await takeGrant(volumedriver.volumes, { volumeId, nodeId });
  } catch (error) {
    if (!hasCode(error, 'UNAVAILABLE') || volumedriver.shared) throw error;
    if (!(await nodes.isGone(volumedriver.nodeId))) throw error;
  }
}

/** Drains: what was acknowledged to the node's clients is in the volume when it resolves. */
async function takeGrant(
  volumes: VolumeService,
  { volumeId, nodeId }: { volumeId: string; nodeId: string },
): Promise<void> {
  const volume = await findVolumeById(volumes, volumeId);
  const granted = volume?.grants.some((one) => nodeId === '' || one.node === nodeId) ?? false;
  if (!granted) return;
  try {
    await volumes.revoke(volumeId, nodeId === '' ? null : nodeId);
  } catch (error) {
    if (!hasCode(error, 'VOLUME_NOT_FOUND')) throw error;
  }
}
