/** What an attacher does, as its API server offers it and its API client calls it: one block device per volume. */

export const deviceStates = ['attached', 'waiting', 'broken'] as const;
/**
 * attached: I/O works. waiting: I/O waits for the volumedriver to come back. broken: I/O fails and only a detach helps.
 */
export type DeviceState = (typeof deviceStates)[number];

export interface Device {
  readonly volumeId: string;
  /** Such as /dev/loop7. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly uri: string;
  readonly state: DeviceState;
  /** fuse or kernel. */
  readonly strategy: string;
  /** Why the state is not `attached`; empty otherwise. */
  readonly reason: string;
}

export interface DeviceService {
  /**
   * Makes the export at `uri` a block device, or returns the one that exists for the same export and mode.
   * ALREADY_EXISTS when the volume is attached from another export or in another mode.
   */
  attach(request: { volumeId: string; uri: string; readOnly: boolean }): Promise<Device>;
  /** Removes the device; nothing to do when there is none. Bounded in time. */
  detach(volumeId: string): Promise<void>;
  /** Makes the device show `sizeBytes` with users on it. PATH_NOT_FOUND when not attached. */
  resize(volumeId: string, sizeBytes: number): Promise<Device>;
  /** PATH_NOT_FOUND when not attached. */
  getDevice(volumeId: string): Promise<Device>;
  listDevices(): Promise<Device[]>;
}
