/** The Identity service: the plugin's name, what it can do as a whole, and whether it is ready. */
import {
  PluginCapability_Service_Type,
  PluginCapability_VolumeExpansion_Type,
  type PluginCapability,
} from '../api/generated/csi.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { IdentityHandlers } from './handlers.ts';

export interface IdentityOptions {
  /** Such as csi.volumedriver.io. */
  readonly driverName: string;
  readonly version: string;
  /** False while the plugin still starts; rejects with a VolumeError (NOT_CAPABLE, HALTED, …) when it is unhealthy. */
  readonly ready: () => Promise<boolean>;
  /** Services beyond the controller that this plugin has somewhere, on this socket or another. */
  readonly groupController?: boolean;
  readonly snapshotMetadata?: boolean;
}

/** CSI, GetPluginInfo: at most 63 characters, alphanumerics at both ends, dashes and dots between. */
const driverNamePattern = /^[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$/;

export function createIdentityService(options: IdentityOptions): IdentityHandlers {
  if (!driverNamePattern.test(options.driverName)) {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      `driver name ${JSON.stringify(options.driverName)}: it must look like a domain name of at most 63 characters`,
    );
  }
  const capabilities = pluginCapabilities(options);
  return {
    getPluginInfo: () =>
      Promise.resolve({ name: options.driverName, vendorVersion: options.version, manifest: {} }),
    getPluginCapabilities: () => Promise.resolve({ capabilities }),
    probe: async () => ({ ready: await options.ready() }),
  };
}

function pluginCapabilities(options: IdentityOptions): PluginCapability[] {
  const services = [
    PluginCapability_Service_Type.CONTROLLER_SERVICE,
    PluginCapability_Service_Type.VOLUME_ACCESSIBILITY_CONSTRAINTS,
    ...(options.groupController === true
      ? [PluginCapability_Service_Type.GROUP_CONTROLLER_SERVICE]
      : []),
    ...(options.snapshotMetadata === true
      ? [PluginCapability_Service_Type.SNAPSHOT_METADATA_SERVICE]
      : []),
  ];
  return [
    ...services.map((type): PluginCapability => ({ type: { $case: 'service', value: { type } } })),
    {
      type: {
        $case: 'volumeExpansion',
        value: { type: PluginCapability_VolumeExpansion_Type.ONLINE },
      },
    },
  ];
}
