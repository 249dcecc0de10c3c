/**
 * Which of the kernel's devices are ours. The identifier that the kernel keeps with a device tells, whatever became of
 * our records. A kernel that keeps none is asked for what else a record knows: the thread that connected the device,
 * or, when a crash came before that was saved, a socket that only the kernel can still hold.
 */
import { volumeKey } from '../records.ts';
import type { AttacherIdentity, Target } from '../strategy.ts';
import { decodeIdentifier } from './identifiers.ts';
import type { KernelDetails } from './kernel-details.ts';
import type { NbdDevice } from './nbd-devices.ts';
import type { NbdControl } from './nbd-netlink.ts';
import type { NbdMachine } from './nbd-machine.ts';

export interface OwnDevicesOptions {
  readonly identity: AttacherIdentity;
  readonly control: NbdControl;
  readonly machine: NbdMachine;
  /** Sockets that this process holds itself: that they exist proves nothing. */
  readonly heldByUs: () => ReadonlySet<string>;
}

export class OwnDevices {
  readonly #options: OwnDevicesOptions;
  /** The connector of devices that we disconnected, by index: somebody may still hold them open. */
  readonly #disconnected = new Map<number, number | null>();

  constructor(options: OwnDevicesOptions) {
    this.#options = options;
  }

  /** The target's device as its record knows it; null when it is gone or somebody else's by now. */
  async recorded(details: KernelDetails): Promise<NbdDevice | null> {
    if (details.index === null) return null;
    const device = await this.#options.machine.readDevice(details.index);
    return device !== null && (await this.#isOurs(device, details)) ? device : null;
  }

  /** All devices of the target, complete or half-made. */
  async find(target: Target, details: KernelDetails): Promise<NbdDevice[]> {
    const devices = await this.#options.machine.listDevices();
    const found = devices.filter((device) => this.#keyOf(device) === target.key);
    const recorded = details.identifier === null ? await this.recorded(details) : null;
    return recorded === null ? found : [...found, recorded];
  }

  /** The keys of the devices that are connected. Those on a kernel without identifiers are known by records only. */
  async keys(): Promise<string[]> {
    const keys = new Set<string>();
    for (const device of await this.#options.machine.listDevices()) {
      const key = this.#keyOf(device);
      if (key !== null && (await this.isConnected(device))) keys.add(key);
    }
    return [...keys].sort();
  }

  /** False for a device that somebody only holds open still. */
  async isConnected({ index, identifier, pid }: NbdDevice): Promise<boolean> {
    // Kernels before 2025 cannot tell.
    if (this.#disconnected.has(index) && this.#disconnected.get(index) === pid) return false;
    return await this.#options.control.isBound(index, identifier);
  }

  /** All its I/O fails from now on. UNAVAILABLE when the kernel does not answer in time. */
  async disconnect({ index, pid }: NbdDevice): Promise<void> {
    await this.#options.control.disconnect(index);
    this.#disconnected.set(index, pid);
  }

  #keyOf({ identifier }: NbdDevice): string | null {
    const decoded =
      identifier === null ? null : decodeIdentifier(this.#options.identity, identifier);
    return decoded === null ? null : volumeKey(decoded.volumeId);
  }

  async #isOurs(device: NbdDevice, details: KernelDetails): Promise<boolean> {
    if (details.identifier !== null) return device.identifier === details.identifier;
    if (device.identifier !== null || device.pid === null) return false;
    if (details.connectorPid !== null) return device.pid === details.connectorPid;
    const [listed, held] = [await this.#options.machine.listSockets(), this.#options.heldByUs()];
    return details.sockets.some((inode) => listed.has(inode) && !held.has(inode));
  }
}
