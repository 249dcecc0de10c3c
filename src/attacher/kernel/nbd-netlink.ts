/**
 * The kernel's NBD client by its generic netlink family "nbd" (include/uapi/linux/nbd-netlink.h): connects sockets to
 * block devices, replaces dead sockets, changes sizes and tells of lost links. Needs CAP_SYS_ADMIN in the first user
 * namespace, and for the events the first network namespace.
 */
import type { Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import { VolumeError } from '../../volumes/errors.ts';

export interface NbdConnectRequest {
  /** Null: the kernel takes the first unused index or makes a new device. */
  readonly index: number | null;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly serverFlags: number;
  /** Descriptors of connected sockets behind their handshakes; they stay the caller's, the kernel takes its own. */
  readonly sockets: readonly number[];
  readonly deadTimeoutSeconds: number;
  readonly identifier: string | null;
}

export interface NbdReconfigureRequest {
  readonly index: number;
  readonly identifier: string | null;
  readonly sockets?: readonly number[];
  readonly size?: { readonly sizeBytes: number; readonly blockSizeBytes: number };
}

/** What the strategy needs of it (its doubles in unit tests implement this). */
export interface NbdControl {
  /** The kernel knows BACKEND_IDENTIFIER (CTRL_ATTR_MAXATTR >= 10). */
  readonly hasIdentifiers: boolean;
  /** The index of the device. VOLUME_IN_USE when a chosen index is taken; UNAVAILABLE, NOT_CAPABLE (EPERM: needs CAP_SYS_ADMIN), INTERNAL. */
  connect(request: NbdConnectRequest): Promise<number>;
  /** PATH_NOT_FOUND when the device is not configured or is somebody else's; else as connect. */
  reconfigure(request: NbdReconfigureRequest): Promise<void>;
  /** RECONFIGURE with the identifier and nothing else: false when the kernel says that the device is not configured or is somebody else's. */
  isBound(index: number, identifier: string | null): Promise<boolean>;
  /** Fine when it is not connected. */
  disconnect(index: number): Promise<void>;
  status(): Promise<readonly { readonly index: number; readonly connected: boolean }[]>;
  /** null: events were lost, any device may be concerned. */
  onLinkDead(callback: (index: number | null) => void): void;
  close(): void;
}

/** NOT_CAPABLE when there is no family "nbd" (the module is not loaded). */
export function openNbdNetlink(options: {
  clock: Clock;
  logger: Logger;
  timeoutMs?: number;
}): Promise<NbdControl> {
  options.logger.debug('the netlink client is not there yet');
  return Promise.reject(new VolumeError('NOT_CAPABLE', 'nbd netlink: not there yet'));
}
