/**
 * The CSI Controller service. It keeps no state: names, grants and generations live in the volumedrivers, so that
 * several replicas may serve at once and every call can be repeated anywhere.
 */
import {
  ControllerServiceCapability_RPC_Type as Rpc,
  type ControllerExpandVolumeRequest,
  type ControllerExpandVolumeResponse,
  type ControllerGetVolumeRequest,
  type ControllerGetVolumeResponse,
  type ValidateVolumeCapabilitiesRequest,
  type ValidateVolumeCapabilitiesResponse,
} from '../api/generated/csi.ts';
import type { ControllerHandlers } from '../csi/handlers.ts';
import { requireMessage, requireString } from '../csi/validate.ts';
import {
  fsTypeContextKey,
  isFilesystemType,
  parseCapabilities,
  parseCapability,
  requireSupported,
  unsupportedReason,
} from '../csi/volume-capability.ts';
import { describeError } from '../base/logger.ts';
import { getCapacity, type CapacityParts } from './capacity.ts';
import { chooseGrownSize, parseRange } from './capacity-range.ts';
import { createVolume, deleteVolume, type DeletePolicy } from './create-volume.ts';
import { listVolumes } from './list-volumes.ts';
import {
  snapshotById,
  snapshotMessage,
  volumeById,
  volumeMessage,
  volumeStatus,
} from './messages.ts';
import { parseVolumeParameters } from './parameters.ts';
import { OneAtATime } from './one-at-a-time.ts';
import { publishVolume, unpublishVolume, type PublishParts } from './publish-volume.ts';
import { createSnapshot, deleteSnapshot, listSnapshots } from './snapshots.ts';
import { accessibleTopology } from './topology.ts';
import { getVolumeHealth, listVolumeHealth } from './volume-health.ts';
import { requireVolumedriver, type Volumedrivers } from './volumedrivers.ts';

export type ControllerServiceOptions = CapacityParts & PublishParts & DeletePolicy;

const capabilities = [
  Rpc.CREATE_DELETE_VOLUME,
  Rpc.PUBLISH_UNPUBLISH_VOLUME,
  Rpc.LIST_VOLUMES,
  Rpc.LIST_VOLUMES_PUBLISHED_NODES,
  Rpc.GET_CAPACITY,
  Rpc.GET_VOLUME,
  Rpc.VOLUME_CONDITION,
  Rpc.CREATE_DELETE_SNAPSHOT,
  Rpc.LIST_SNAPSHOTS,
  Rpc.GET_SNAPSHOT,
  Rpc.CLONE_VOLUME,
  Rpc.EXPAND_VOLUME,
  Rpc.PUBLISH_READONLY,
  Rpc.SINGLE_NODE_MULTI_WRITER,
  Rpc.GET_VOLUME_HEALTH,
  Rpc.LIST_VOLUME_HEALTH,
];

export type OfferedControllerHandlers = Required<
  Omit<ControllerHandlers, 'controllerModifyVolume'>
>;

export function createControllerService(
  options: ControllerServiceOptions,
): OfferedControllerHandlers {
  const { volumedrivers } = options;
  const calls = new OneAtATime();
  const alone = <Result>(volumeId: string, call: () => Promise<Result>): Promise<Result> =>
    calls.run(`volume ${volumeId}`, call);
  return {
    ...snapshotHandlers(volumedrivers),
    createVolume: async (request) =>
      await calls.run(`volume name ${request.name}`, () => createVolume(options, request)),
    deleteVolume: async (request) => {
      const volumeId = requireString('volume_id', request.volumeId);
      await alone(volumeId, () => deleteVolume(options, volumeId));
      return {};
    },
    controllerPublishVolume: async (request) =>
      await alone(request.volumeId, () => publishVolume(options, request)),
    controllerUnpublishVolume: async (request) => {
      const volumeId = requireString('volume_id', request.volumeId);
      await alone(volumeId, () => unpublishVolume(options, { volumeId, nodeId: request.nodeId }));
      return {};
    },
    validateVolumeCapabilities: async (request) =>
      await validateCapabilities(volumedrivers, request),
    listVolumes: async (request) => await listVolumes(options, request),
    getCapacity: async (request) => await getCapacity(options, request),
    controllerExpandVolume: async (request) => await expandVolume(volumedrivers, request),
    controllerGetVolume: async (request) => await getVolume(options, request),
    controllerGetVolumeHealth: async (request) =>
      await getVolumeHealth(volumedrivers, requireString('volume_id', request.volumeId)),
    controllerListVolumeHealth: async (request) => await listVolumeHealth(volumedrivers, request),
    controllerGetCapabilities: () =>
      Promise.resolve({
        capabilities: capabilities.map((type) => ({ type: { $case: 'rpc', value: { type } } })),
      }),
  };
}

function snapshotHandlers(
  volumedrivers: Volumedrivers,
): Required<
  Pick<ControllerHandlers, 'createSnapshot' | 'deleteSnapshot' | 'listSnapshots' | 'getSnapshot'>
> {
  return {
    createSnapshot: async (request) => await createSnapshot(volumedrivers, request),
    deleteSnapshot: async (request) => {
      await deleteSnapshot(volumedrivers, requireString('snapshot_id', request.snapshotId));
      return {};
    },
    listSnapshots: async (request) => await listSnapshots(volumedrivers, request),
    getSnapshot: async (request) => {
      const id = requireString('snapshot_id', request.snapshotId);
      const { volumes } = await requireVolumedriver(volumedrivers, id, 'SNAPSHOT_NOT_FOUND');
      return { snapshot: snapshotMessage(await snapshotById(volumes, id)) };
    },
  };
}

async function getVolume(
  { driverName, volumedrivers }: CapacityParts,
  request: ControllerGetVolumeRequest,
): Promise<ControllerGetVolumeResponse> {
  const id = requireString('volume_id', request.volumeId);
  const volumedriver = await requireVolumedriver(volumedrivers, id, 'VOLUME_NOT_FOUND');
  const volume = await volumeById(volumedriver.volumes, id);
  const topology = accessibleTopology(driverName, volumedriver);
  return { volume: volumeMessage(volume, { topology }), status: volumeStatus(volume) };
}

/** What is not supported is an answer, not an error: nothing confirmed, and a message that says why. */
async function validateCapabilities(
  volumedrivers: Volumedrivers,
  request: ValidateVolumeCapabilitiesRequest,
): Promise<ValidateVolumeCapabilitiesResponse> {
  const volumeId = requireString('volume_id', request.volumeId);
  const uses = parseCapabilities('volume_capabilities', request.volumeCapabilities);
  const volumedriver = await requireVolumedriver(volumedrivers, volumeId, 'VOLUME_NOT_FOUND');
  const volume = await volumeById(volumedriver.volumes, volumeId);
  const reason =
    uses.map((use) => unsupportedReason(use, volumedriver)).find((one) => one !== undefined) ??
    unsupportedContext(request.volumeContext) ??
    unsupportedParameters(request, volume.flushTo);
  if (reason !== undefined) return { confirmed: undefined, message: reason };
  const { volumeContext, volumeCapabilities, parameters, mutableParameters } = request;
  return {
    confirmed: { volumeContext, volumeCapabilities, parameters, mutableParameters },
    message: '',
  };
}

function unsupportedContext(context: Readonly<Record<string, string>>): string | undefined {
  for (const [key, value] of Object.entries(context)) {
    if (key.startsWith('storage.kubernetes.io/')) continue;
    if (key === fsTypeContextKey && isFilesystemType(value)) continue;
    return `volume_context: ${JSON.stringify(key)} is not this volume's`;
  }
  return undefined;
}

function unsupportedParameters(
  request: ValidateVolumeCapabilitiesRequest,
  flushTo: string,
): string | undefined {
  if (Object.keys(request.mutableParameters).length > 0) {
    return 'mutable_parameters: volumes have none';
  }
  try {
    const parameters = parseVolumeParameters(request.parameters);
    if (parameters.flushTo === undefined || parameters.flushTo === flushTo) return undefined;
    return `parameters.flushTo: the volume has ${flushTo}`;
  } catch (error) {
    return describeError(error);
  }
}

/** Grows a volume, in use or not. Device and filesystem follow at the node. */
async function expandVolume(
  volumedrivers: Volumedrivers,
  request: ControllerExpandVolumeRequest,
): Promise<ControllerExpandVolumeResponse> {
  const volumeId = requireString('volume_id', request.volumeId);
  const range = parseRange(requireMessage('capacity_range', request.capacityRange));
  const use =
    request.volumeCapability && parseCapability('volume_capability', request.volumeCapability);
  const volumedriver = await requireVolumedriver(volumedrivers, volumeId, 'VOLUME_NOT_FOUND');
  if (use !== undefined) requireSupported('volume_capability', use, volumedriver);
  const { volumes } = volumedriver;
  const volume = await volumeById(volumes, volumeId);
  const sizeBytes = chooseGrownSize(range, volume.sizeBytes);
  const grown =
    sizeBytes === volume.sizeBytes ? volume : await volumes.growVolume(volumeId, sizeBytes);
  return { capacityBytes: grown.sizeBytes, nodeExpansionRequired: true };
}
