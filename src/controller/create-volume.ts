/**
 * CreateVolume and DeleteVolume. Repeating either is safe at any time: a volume is known by its name, which is looked
 * for wherever an earlier call may have made it, before one is made.
 */
import pLimit from 'p-limit';
import type {
  CreateVolumeRequest,
  CreateVolumeResponse,
  TopologyRequirement,
} from '../api/generated/csi.ts';
import { requireSupported, unsupportedReason, type VolumeUse } from '../csi/volume-capability.ts';
import { fsTypeContextKey } from '../csi/volume-capability.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import type { Volume, VolumeSource } from '../volumes/volume.ts';
import { roomOf, type CapacityParts } from './capacity.ts';
import { chooseSize } from './capacity-range.ts';
import { findVolumeById, snapshotById, volumeById, volumeMessage } from './messages.ts';
import { accessibleTopology, allowedBy, requisiteNodes } from './topology.ts';
import {
  findVolumedriver,
  requireVolumedriver,
  type Volumedriver,
  type Volumedrivers,
} from './volumedrivers.ts';
import { checkCompatible, flushTargetOf, parseWanted, type WantedVolume } from './wanted-volume.ts';

/** Volumedrivers that are asked for a name at the same time. */
const askedAtOnce = 16;

/** A volume and where it is. */
interface Placed {
  readonly volume: Volume;
  readonly volumedriver: Volumedriver;
}

export async function createVolume(
  parts: CapacityParts,
  request: CreateVolumeRequest,
): Promise<CreateVolumeResponse> {
  const wanted = parseWanted(request);
  const candidates = await findCandidates(parts, wanted.uses, request.accessibilityRequirements);
  const { volume, volumedriver } =
    (await findByName(candidates, wanted.name)) ?? (await makeVolume(parts, candidates, wanted));
  checkCompatible(volume, wanted, volumedriver);
  const context = wanted.fsType === undefined ? {} : { [fsTypeContextKey]: wanted.fsType };
  const topology = accessibleTopology(parts.driverName, volumedriver);
  return { volume: volumeMessage(volume, { topology, context }) };
}

/** Where the volume may be, the best place first. Rejects when there is no such place. */
async function findCandidates(
  { driverName, volumedrivers }: CapacityParts,
  uses: readonly VolumeUse[],
  requirement: TopologyRequirement | undefined,
): Promise<Volumedriver[]> {
  const all = await volumedrivers.list();
  const capable = all.filter((one) =>
    uses.every((use) => unsupportedReason(use, one) === undefined),
  );
  if (capable.length === 0) {
    uses.forEach((use, index) => {
      requireSupported(`volume_capabilities[${index}]`, use, { shared: false });
    });
  }
  const candidates = allowedBy(driverName, capable, requirement);
  if (candidates.length > 0) return candidates;
  throw await noCandidate(volumedrivers, requisiteNodes(driverName, requirement));
}

/** UNAVAILABLE while a volumedriver of these nodes (undefined: any node) may still come up; else OUT_OF_SPACE. */
async function noCandidate(
  volumedrivers: Volumedrivers,
  nodes: readonly string[] | undefined,
): Promise<VolumeError> {
  const starting = (await volumedrivers.nodesToRegister()).find(
    (node) => nodes?.includes(node) ?? true,
  );
  if (starting !== undefined) {
    return new VolumeError(
      'UNAVAILABLE',
      `create volume: the volumedriver of node ${starting} has not answered yet`,
    );
  }
  if (nodes === undefined) {
    return new VolumeError('UNAVAILABLE', 'create volume: no node has a volumedriver yet');
  }
  return new VolumeError(
    'OUT_OF_SPACE',
    `accessibility_requirements: there is no volumedriver that was not forgotten on ${describeNodes(nodes)}`,
  );
}

function describeNodes(nodes: readonly string[]): string {
  const shown = nodes.slice(0, 10).join(', ');
  return `${nodes.length === 1 ? 'node' : 'any of the nodes'} ${shown}${nodes.length > 10 ? ', …' : ''}`;
}

/**
 * Undefined when none of the candidates has it. One that does not answer may have it: UNAVAILABLE then, unless
 * another has, never a second volume.
 */
async function findByName(
  candidates: readonly Volumedriver[],
  name: string,
): Promise<Placed | undefined> {
  const limit = pLimit(askedAtOnce);
  const answers = await Promise.allSettled(
    candidates.map((volumedriver) =>
      limit(async () => {
        const volume = await volumeNamed(volumedriver.volumes, name);
        return volume === undefined ? undefined : { volume, volumedriver };
      }),
    ),
  );
  const found = answers.map((one) => (one.status === 'fulfilled' ? one.value : undefined));
  const failed = answers.find((one) => one.status === 'rejected');
  const placed = found.find((one) => one !== undefined);
  if (placed === undefined && failed !== undefined) throw failed.reason;
  return placed;
}

async function volumeNamed(volumes: VolumeService, name: string): Promise<Volume | undefined> {
  try {
    const volume = await volumes.getVolume(name);
    return volume.name === name ? volume : undefined;
  } catch (error) {
    if (hasCode(error, 'VOLUME_NOT_FOUND')) return undefined;
    throw error;
  }
}

async function makeVolume(
  parts: CapacityParts,
  candidates: readonly Volumedriver[],
  wanted: WantedVolume,
): Promise<Placed> {
  const volumedriver =
    wanted.source === undefined
      ? await firstWithRoom(parts, candidates, chooseSize(wanted.range, undefined))
      : await whereSourceIs(parts.volumedrivers, candidates, wanted.source);
  const { volumes } = volumedriver;
  const sourceBytes = await sourceSize(volumes, wanted.source);
  try {
    const volume = await volumes.createVolume({
      name: wanted.name,
      sizeBytes: chooseSize(wanted.range, sourceBytes),
      flushTo: flushTargetOf(wanted, volumedriver),
      ...(wanted.source === undefined ? {} : { source: wanted.source }),
    });
    return { volume, volumedriver };
  } catch (error) {
    // A call that runs at the same time was faster.
    const volume = hasCode(error, 'ALREADY_EXISTS')
      ? await volumeNamed(volumes, wanted.name)
      : undefined;
    if (volume === undefined) throw error;
    return { volume, volumedriver };
  }
}

async function firstWithRoom(
  { overcommit }: CapacityParts,
  candidates: readonly Volumedriver[],
  sizeBytes: number,
): Promise<Volumedriver> {
  const full: string[] = [];
  for (const candidate of candidates) {
    const room = await roomOf(candidate, overcommit);
    if (sizeBytes <= room.volumeBytesMax) return candidate;
    full.push(`${candidate.nodeId} has ${room.availableBytes}`);
  }
  throw new VolumeError(
    'OUT_OF_SPACE',
    `create volume: ${sizeBytes} bytes are more than ${overcommit} times what is free on any allowed node: ` +
      full.slice(0, 10).join(', '),
  );
}

/** Clones share their source's data, so they are where it is. */
async function whereSourceIs(
  volumedrivers: Volumedrivers,
  candidates: readonly Volumedriver[],
  source: VolumeSource,
): Promise<Volumedriver> {
  const [id, code] =
    source.kind === 'volume'
      ? [source.volumeId, 'VOLUME_NOT_FOUND' as const]
      : [source.snapshotId, 'SNAPSHOT_NOT_FOUND' as const];
  const volumedriver = await requireVolumedriver(volumedrivers, id, code);
  const { backendId, nodeId } = volumedriver;
  if (candidates.some((one) => one.backendId === backendId)) return volumedriver;
  throw new VolumeError(
    'OUT_OF_SPACE',
    `create volume: its source ${id} is on node ${nodeId}, which is not among the requisite topologies; ` +
      `what is made from it can only be on node ${nodeId}`,
  );
}

async function sourceSize(
  volumes: VolumeService,
  source: VolumeSource | undefined,
): Promise<number | undefined> {
  if (source === undefined) return undefined;
  if (source.kind === 'volume') return (await volumeById(volumes, source.volumeId)).sizeBytes;
  return (await snapshotById(volumes, source.snapshotId)).sizeBytes;
}

export interface DeletePolicy {
  readonly volumedrivers: Volumedrivers;
  /**
   * Whether the caller deletes only what it has unpublished, as Kubernetes' provisioner does, which looks for
   * VolumeAttachments first. A grant that is left then is that of a node which could not be asked to give it back.
   */
  readonly deletesUnpublishedOnly: boolean;
}

/** Snapshots and clones of the volume stay: its data is kept until the last of them is gone. */
export async function deleteVolume(policy: DeletePolicy, volumeId: string): Promise<void> {
  const volumedriver = await findVolumedriver(policy.volumedrivers, volumeId);
  if (typeof volumedriver === 'string') return;
  const { volumes } = volumedriver;
  const volume = await findVolumeById(volumes, volumeId);
  if (volume === undefined) return;
  try {
    if (policy.deletesUnpublishedOnly && volume.grants.length > 0 && volume.clients === 0) {
      await volumes.revoke(volumeId, null);
    }
    await volumes.removeVolume(volumeId, 'deferred');
  } catch (error) {
    if (!hasCode(error, 'VOLUME_NOT_FOUND')) throw error;
  }
}
