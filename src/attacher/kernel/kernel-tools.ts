/** What the parts of the kernel strategy work with. */
import type { Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import type { Mutex } from '../../base/mutex.ts';
import type { RunCommand } from '../../volumes/command.ts';
import { hasCode } from '../../volumes/errors.ts';
import type { KernelTimeouts } from './kernel-details.ts';
import type { Link } from './links.ts';
import type { NbdMachine } from './nbd-machine.ts';
import type { NbdControl } from './netlink/nbd-netlink.ts';
import type { OwnDevices } from './own-devices.ts';

export interface KernelTools {
  readonly control: NbdControl;
  readonly machine: NbdMachine;
  readonly own: OwnDevices;
  readonly lent: LentSockets;
  /** Held while an index is given to a device, or freed and kept from being given. */
  readonly indexes: Mutex;
  readonly timeouts: KernelTimeouts;
  /** How long the kernel keeps requests of a device without a link. */
  readonly deadTimeoutSeconds: number;
  readonly runCommand: RunCommand;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Sockets named in a command to the kernel by their descriptors' numbers. A command that did not answer in time may
 * still be carried out later; by then, a number that was closed could belong to a socket of another volume. Such
 * sockets are therefore cut, so that they harm nobody, and stay open.
 */
export class LentSockets {
  #abandoned: Link[] = [];

  async during<T>(links: readonly Link[], command: () => Promise<T>): Promise<T> {
    try {
      return await command();
    } catch (error) {
      this.takeBack(links, error);
      throw error;
    }
  }

  /** Closes the sockets when the command was refused; abandons them when it was not answered. */
  takeBack(links: readonly Link[], error: unknown): void {
    if (hasCode(error, 'UNAVAILABLE')) {
      for (const link of links) link.cut();
      this.#abandoned = [...this.#abandoned, ...links];
    } else {
      for (const link of links) link.close();
    }
  }

  /**
   * Waits until no command is under way any more that may still make or change a device. UNAVAILABLE when that lasts.
   * Commands are carried out one after the other, so that an answer to this one says it of all earlier ones.
   */
  async settle(control: NbdControl): Promise<void> {
    const settled = this.#abandoned;
    if (settled.length === 0) return;
    await control.status();
    for (const link of settled) link.close();
    this.#abandoned = this.#abandoned.filter((link) => !settled.includes(link));
  }

  get inodes(): string[] {
    return this.#abandoned.map(({ inode }) => inode);
  }

  /** At the end of the process. */
  close(): void {
    for (const link of this.#abandoned) link.close();
    this.#abandoned = [];
  }
}
