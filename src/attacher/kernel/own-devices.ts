/**
 * Which of the kernel's devices are ours. The identifier that the kernel keeps with a device tells, whatever became of
 * our records. With a kernel that keeps none, it is known of what this process connected; after a restart, the record
 * tells the thread that connected the device, and sockets that only the kernel can still hold.
 */
import { volumeKey } from '../records.ts';
import type { AttacherIdentity, Target } from '../strategy.ts';
import { decodeIdentifier } from './identifiers.ts';
import type { KernelDetails } from './kernel-details.ts';
import type { NbdDevice } from './nbd-devices.ts';
import type { NbdControl } from './netlink/nbd-netlink.ts';
import type { NbdMachine } from './nbd-machine.ts';

export interface OwnDevicesOptions {
  readonly identity: AttacherIdentity;
  readonly control: NbdControl;
  readonly machine: NbdMachine;
  /** Sockets that this process holds itself: that they exist proves nothing. */
  readonly heldByUs: () => ReadonlySet<string>;
}

interface Connection {
  /** Null when only its end is known. */
  readonly key: string | null;
  readonly pid: number | null;
  /** We disconnected it; somebody may still hold it open. */
  readonly isOver: boolean;
}

export class OwnDevices {
  readonly #options: OwnDevicesOptions;
  /** What this process knows of connections, by index. Threads connect many devices: a pid alone tells none. */
  readonly #connections = new Map<number, Connection>();

  constructor(options: OwnDevicesOptions) {
    this.#options = options;
  }

  /** The target's device as its record knows it; null when it is gone or somebody else's by now. */
  async recorded(key: string, details: KernelDetails): Promise<NbdDevice | null> {
    if (details.index === null) return null;
    const device = await this.#options.machine.readDevice(details.index);
    return device !== null && (await this.#isOurs(key, device, details)) ? device : null;
  }

  /** All devices of the target, complete or half-made. */
  async find(target: Target, details: KernelDetails): Promise<NbdDevice[]> {
    const devices = await this.#options.machine.listDevices();
    const found = devices.filter((device) => this.#keyOf(device) === target.key);
    const recorded = details.identifier === null ? await this.recorded(target.key, details) : null;
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
    const known = this.#connections.get(index);
    if (known?.isOver === true && known.pid === pid) return false;
    return await this.#options.control.isBound(index, identifier);
  }

  /** This process has just connected it for the target. */
  connected(target: { key: string }, { index, pid }: Pick<NbdDevice, 'index' | 'pid'>): void {
    this.#connections.set(index, { key: target.key, pid, isOver: false });
  }

  /** All its I/O fails from now on. UNAVAILABLE when the kernel does not answer in time. */
  async disconnect({ index, pid }: NbdDevice): Promise<void> {
    await this.#options.control.disconnect(index);
    const key = this.#connections.get(index)?.key ?? null;
    this.#connections.set(index, { key, pid, isOver: true });
  }

  #keyOf({ identifier }: NbdDevice): string | null {
    const decoded =
      identifier === null ? null : decodeIdentifier(this.#options.identity, identifier);
    return decoded === null ? null : volumeKey(decoded.volumeId);
  }

  async #isOurs(key: string, device: NbdDevice, details: KernelDetails): Promise<boolean> {
    if (details.identifier !== null) return device.identifier === details.identifier;
    const { index, identifier, pid } = device;
    if (identifier !== null || pid === null) return false;
    const known = this.#connections.get(index);
    if (known !== undefined && known.key !== null && known.pid === pid) return known.key === key;
    if (details.connectorPid !== null && details.connectorPid !== pid) return false;
    const [listed, held] = [await this.#options.machine.listSockets(), this.#options.heldByUs()];
    if (!details.sockets.some((inode) => listed.has(inode) && !held.has(inode))) return false;
    this.connected({ key }, device);
    return true;
  }
}
