/**
 * A VolumeCapability of the wire as plain data, read the same way by the controller and the node. Malformed ones
 * are refused at once; whether a well-formed one is supported is a separate question, because
 * ValidateVolumeCapabilities answers it without an error.
 */
import { VolumeCapability_AccessMode_Mode, type VolumeCapability } from '../api/generated/csi.ts';
import { invalid, requireMessage } from './validate.ts';

export const filesystemTypes = ['ext4', 'xfs'] as const;
export type FilesystemType = (typeof filesystemTypes)[number];

/** What a volume gets when nobody names a filesystem. */
export const filesystemTypeDefault: FilesystemType = 'ext4';

export function isFilesystemType(value: string): value is FilesystemType {
  return filesystemTypes.some((type) => type === value);
}

const accessModes = [
  'SINGLE_NODE_WRITER',
  'SINGLE_NODE_READER_ONLY',
  'MULTI_NODE_READER_ONLY',
  'MULTI_NODE_SINGLE_WRITER',
  'MULTI_NODE_MULTI_WRITER',
  'SINGLE_NODE_SINGLE_WRITER',
  'SINGLE_NODE_MULTI_WRITER',
] as const;
export type AccessMode = (typeof accessModes)[number];

export type VolumeUse =
  | { readonly kind: 'block'; readonly accessMode: AccessMode }
  | {
      readonly kind: 'mount';
      readonly accessMode: AccessMode;
      /** As asked for; empty: no wish. */
      readonly fsType: string;
      /** May hold secrets: never logged. */
      readonly mountFlags: readonly string[];
      readonly mountGroup: string;
    };

/** INVALID_ARGUMENT when something that the specification requires is missing or not in its list. */
export function parseCapability(
  field: string,
  capability: VolumeCapability | undefined,
): VolumeUse {
  const { accessType, accessMode: message } = requireMessage(field, capability);
  const mode = requireMessage(`${field}.access_mode`, message).mode;
  const accessMode = accessModes.find((name) => VolumeCapability_AccessMode_Mode[name] === mode);
  if (accessMode === undefined)
    throw invalid(`${field}.access_mode.mode`, 'it is required, and one of those that CSI defines');
  if (accessType === undefined) throw invalid(field, 'it needs an access type, mount or block');
  if (accessType.$case === 'block') return { kind: 'block', accessMode };
  const { fsType, mountFlags, volumeMountGroup } = accessType.value;
  for (const flag of mountFlags) {
    if (flag === '' || /\p{Cc}/u.test(flag)) {
      throw invalid(`${field}.mount.mount_flags`, 'a flag is empty or has control characters');
    }
  }
  return { kind: 'mount', accessMode, fsType, mountFlags, mountGroup: volumeMountGroup };
}

/** Of a repeated field; at least one is required. */
export function parseCapabilities(
  field: string,
  capabilities: readonly VolumeCapability[],
): VolumeUse[] {
  if (capabilities.length === 0) throw invalid(field, 'at least one is required');
  return capabilities.map((capability, index) => parseCapability(`${field}[${index}]`, capability));
}

/** Why no volume can be used so; undefined when it can. `shared`: any node can open the backend. */
export function unsupportedReason(
  use: VolumeUse,
  { shared }: { shared: boolean },
): string | undefined {
  const { accessMode } = use;
  if (accessMode === 'MULTI_NODE_SINGLE_WRITER' || accessMode === 'MULTI_NODE_MULTI_WRITER') {
    return `access mode ${accessMode}: a volume is written from one node only`;
  }
  if (accessMode === 'MULTI_NODE_READER_ONLY' && !shared) {
    return `access mode ${accessMode}: volumes of this backend are on one node`;
  }
  if (use.kind === 'block') return undefined;
  if (use.fsType !== '' && !isFilesystemType(use.fsType)) {
    return `filesystem ${JSON.stringify(use.fsType)}: only ${filesystemTypes.join(' and ')} are supported`;
  }
  if (use.mountGroup !== '') return 'volume_mount_group: it is not supported';
  return undefined;
}

/** INVALID_ARGUMENT unless volumes can be used so. */
export function requireSupported(
  field: string,
  use: VolumeUse,
  options: { shared: boolean },
): void {
  const reason = unsupportedReason(use, options);
  if (reason !== undefined) throw invalid(field, reason);
}

export function isReadOnlyMode(mode: AccessMode): boolean {
  return mode === 'SINGLE_NODE_READER_ONLY' || mode === 'MULTI_NODE_READER_ONLY';
}

/** CSI, NodePublishVolume, second table: whether one node may publish the volume at several paths. */
export function allowsSeveralTargets(mode: AccessMode): boolean {
  return mode === 'SINGLE_NODE_MULTI_WRITER' || mode.startsWith('MULTI_NODE_');
}

/** In publish_context, from ControllerPublishVolume to NodeStageVolume. */
export const publishContextKeys = { generation: 'generation', uri: 'uri' } as const;
/** In volume_context, from CreateVolume to NodeStageVolume: the filesystem for capabilities that name none. */
export const fsTypeContextKey = 'fsType';

/** The key of the one topology segment that a node has. */
export function topologyKey(driverName: string): string {
  return `${driverName}/node`;
}
