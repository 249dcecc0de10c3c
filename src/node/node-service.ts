/**
 * The CSI Node service: checks requests, holds one lock per volume around everything that changes it, and leaves
 * the work to the functions beside it. Needs no Kubernetes API. NodeGetInfo and the reads answer while the
 * volumedriver or another operation is stuck.
 */
import { isAbsolute, join, normalize } from 'node:path';
import {
  NodeServiceCapability_RPC_Type,
  type NodeStageVolumeRequest,
} from '../api/generated/csi.ts';
import type { Logger } from '../base/logger.ts';
import type { NodeHandlers } from '../csi/handlers.ts';
import { invalid, requireString } from '../csi/validate.ts';
import {
  fsTypeContextKey,
  isFilesystemType,
  parseCapability,
  publishContextKeys,
  requireSupported,
  topologyKey,
  type VolumeUse,
} from '../csi/volume-capability.ts';
import { runCommand, type RunCommand } from '../volumes/command.ts';
import type { DeviceService } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { createFilesystems } from './filesystems.ts';
import { LinuxMounts, type MountLimits } from './mounts.ts';
import { getStorageHealth, getVolumeHealth } from './node-health.ts';
import { publishVolume, unpublishVolume } from './publish-volume.ts';
import { StageRecords } from './stage-records.ts';
import { stageVolume, unstageVolume, type NodeParts, type StageRequest } from './stage-volume.ts';
import { VolumeLocks } from './volume-locks.ts';
import { expandVolume, volumeStats } from './volume-stats.ts';
import { defaultDrainLimits, type DrainLimits } from './write-back.ts';

export interface NodeServiceOptions {
  readonly driverName: string;
  readonly nodeId: string;
  /** Must survive a reboot. Stage records live in its subdirectory `staged`. */
  readonly stateDirectory: string;
  readonly volumes: VolumeService;
  readonly devices: DeviceService;
  readonly logger: Logger;
  /** Zero: as many as Kubernetes likes. */
  readonly volumesMax?: number;
  readonly run?: RunCommand;
  readonly mountLimits?: MountLimits;
  readonly drainLimits?: DrainLimits;
}

const capabilities = [
  NodeServiceCapability_RPC_Type.STAGE_UNSTAGE_VOLUME,
  NodeServiceCapability_RPC_Type.GET_VOLUME_STATS,
  NodeServiceCapability_RPC_Type.EXPAND_VOLUME,
  NodeServiceCapability_RPC_Type.VOLUME_CONDITION,
  NodeServiceCapability_RPC_Type.SINGLE_NODE_MULTI_WRITER,
  NodeServiceCapability_RPC_Type.GET_VOLUME_HEALTH,
  NodeServiceCapability_RPC_Type.GET_STORAGE_HEALTH,
];

export function createNodeService(options: NodeServiceOptions): Required<NodeHandlers> {
  const run = options.run ?? runCommand;
  const logger = options.logger.child({ component: 'node' });
  const parts: NodeParts = {
    volumes: options.volumes,
    devices: options.devices,
    mounts: new LinuxMounts(run, options.mountLimits),
    filesystems: createFilesystems(run),
    records: new StageRecords(join(options.stateDirectory, 'staged'), logger),
    run,
    logger,
    drainLimits: options.drainLimits ?? defaultDrainLimits,
  };
  const locks = new VolumeLocks();
  return {
    ...describeNode(options),
    nodeStageVolume: async (message) => {
      const request = parseStage(message);
      await locks.run(request.volumeId, 'stage', () => stageVolume(parts, request));
      return {};
    },
    nodeUnstageVolume: async (message) => {
      const volumeId = requireString('volume_id', message.volumeId);
      const stagingPath = requirePath('staging_target_path', message.stagingTargetPath);
      await locks.run(volumeId, 'unstage', () => unstageVolume(parts, { volumeId, stagingPath }));
      return {};
    },
    nodePublishVolume: async (message) => {
      const volumeId = requireString('volume_id', message.volumeId);
      const targetPath = requirePath('target_path', message.targetPath);
      const use = parseUse(message.volumeCapability);
      if (message.stagingTargetPath === '') {
        throw new VolumeError(
          'NOT_CAPABLE',
          'staging_target_path: it is required, since volumes are staged before they are published',
        );
      }
      const stagingPath = requirePath('staging_target_path', message.stagingTargetPath);
      const request = { volumeId, stagingPath, targetPath, use, readOnly: message.readonly };
      await locks.run(volumeId, 'publish', () => publishVolume(parts, request));
      return {};
    },
    nodeUnpublishVolume: async (message) => {
      const volumeId = requireString('volume_id', message.volumeId);
      const targetPath = requirePath('target_path', message.targetPath);
      await locks.run(volumeId, 'unpublish', () =>
        unpublishVolume(parts, { volumeId, targetPath }),
      );
      return {};
    },
    nodeGetVolumeStats: async (message) =>
      await volumeStats(parts, {
        volumeId: requireString('volume_id', message.volumeId),
        path: requireString('volume_path', message.volumePath),
      }),
    nodeGetVolumeHealth: async (message) =>
      await getVolumeHealth(parts, requireString('volume_id', message.volumeId)),
    nodeGetStorageHealth: async () => await getStorageHealth(parts),
    nodeExpandVolume: async (message) => {
      const volumeId = requireString('volume_id', message.volumeId);
      const path = requireString('volume_path', message.volumePath);
      if (message.volumeCapability !== undefined) parseUse(message.volumeCapability);
      const { requiredBytes, limitBytes } = parseRange(message.capacityRange);
      return await locks.run(volumeId, 'expand', () =>
        expandVolume(parts, { volumeId, path, requiredBytes, limitBytes }),
      );
    },
  };
}

/** These ask nobody: kubelet registers the driver with them while everything else may still be down. */
function describeNode(
  options: NodeServiceOptions,
): Required<Pick<NodeHandlers, 'nodeGetCapabilities' | 'nodeGetInfo'>> {
  const segments = { [topologyKey(options.driverName)]: options.nodeId };
  return {
    nodeGetCapabilities: () =>
      Promise.resolve({
        capabilities: capabilities.map((type) => ({ type: { $case: 'rpc', value: { type } } })),
      }),
    nodeGetInfo: () =>
      Promise.resolve({
        nodeId: options.nodeId,
        maxVolumesPerNode: options.volumesMax ?? 0,
        accessibleTopology: { segments },
      }),
  };
}

function parseStage(message: NodeStageVolumeRequest): StageRequest {
  const volumeId = requireString('volume_id', message.volumeId);
  const stagingPath = requirePath('staging_target_path', message.stagingTargetPath);
  const use = parseUse(message.volumeCapability);
  const { generation: key } = publishContextKeys;
  const text = message.publishContext[key] ?? '';
  if (!/^[1-9]\d{0,15}$/.test(text) || !Number.isSafeInteger(Number(text))) {
    throw invalid(
      `publish_context.${key}`,
      'it is required, as ControllerPublishVolume returned it',
    );
  }
  return {
    volumeId,
    stagingPath,
    generation: Number(text),
    use,
    fsTypeWanted: wantedFilesystem(use, message.volumeContext),
  };
}

function wantedFilesystem(use: VolumeUse, context: Readonly<Record<string, string>>): string {
  if (use.kind === 'block') return '';
  const fsType = use.fsType === '' ? (context[fsTypeContextKey] ?? '') : use.fsType;
  if (fsType === '' || isFilesystemType(fsType)) return fsType;
  throw invalid(`volume_context.${fsTypeContextKey}`, `${fsType} is not supported`);
}

/** The node refuses what no volume can do; whether many nodes may read this one, its grant has decided. */
function parseUse(message: NodeStageVolumeRequest['volumeCapability']): VolumeUse {
  const use = parseCapability('volume_capability', message);
  requireSupported('volume_capability', use, { shared: true });
  return use;
}

function requirePath(field: string, value: string): string {
  const path = requireString(field, value);
  if (!isAbsolute(path)) throw invalid(field, 'it must be an absolute path');
  if (path.includes('\0')) throw invalid(field, 'it must not contain a zero byte');
  const normal = normalize(path).replace(/\/+$/, '');
  if (normal === '') throw invalid(field, 'it must not be the root directory');
  return normal;
}

function parseRange(range: { requiredBytes: number; limitBytes: number } | undefined): {
  requiredBytes: number;
  limitBytes: number;
} {
  const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
  if (requiredBytes < 0 || limitBytes < 0)
    throw invalid('capacity_range', 'it must not be negative');
  if (limitBytes > 0 && requiredBytes > limitBytes) {
    throw invalid('capacity_range', 'required_bytes must not be more than limit_bytes');
  }
  return { requiredBytes, limitBytes };
}
