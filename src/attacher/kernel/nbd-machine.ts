/**
 * What the strategy asks of this machine besides netlink, in one place: tests put a model of a kernel there.
 */
import { open, stat } from 'node:fs/promises';
import { hasErrno } from '../../base/errno.ts';
import { toVolumeError } from '../../volumes/errors.ts';
import { listSocketInodes } from './links.ts';
import {
  listNbdDevices,
  maxPart,
  readIoTimeout,
  readNbdDevice,
  readNbdProgress,
  setIoTimeout,
  type NbdDevice,
  type NbdProgress,
} from './nbd-devices.ts';

/** An open device: the kernel gives its index to nobody else. */
export interface DeviceHold {
  close(): Promise<void>;
}

export interface NbdMachine {
  listDevices(): Promise<NbdDevice[]>;
  /** Null when there is no such device. */
  readDevice(index: number): Promise<NbdDevice | null>;
  hasNode(index: number): Promise<boolean>;
  /** Never settles while the kernel lets nobody open the device. */
  hold(index: number): Promise<DeviceHold>;
  setIoTimeout(index: number, timeoutMs: number): Promise<void>;
  /** Null when it is not known. */
  readIoTimeout(index: number): Promise<number | null>;
  readProgress(index: number): Promise<NbdProgress>;
  maxPart(): Promise<number | null>;
  /** Inode numbers of the unix sockets that somebody holds. */
  listSockets(): Promise<ReadonlySet<string>>;
}

export function devicePath(index: number): string {
  return `/dev/nbd${index}`;
}

export const thisMachine: NbdMachine = {
  listDevices: () => listNbdDevices(),
  readDevice: (index) => readNbdDevice(index),
  hasNode: async (index) => {
    try {
      return (await stat(devicePath(index))).isBlockDevice();
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return false;
      throw toVolumeError(error, `look at ${devicePath(index)}`);
    }
  },
  hold: (index) => open(devicePath(index), 'r'),
  readIoTimeout: (index) => readIoTimeout(index),
  readProgress: (index) => readNbdProgress(index),
  setIoTimeout: (index, timeoutMs) => setIoTimeout(index, timeoutMs),
  maxPart: () => maxPart(),
  listSockets: () => listSocketInodes(),
};
