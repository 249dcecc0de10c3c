/**
 * What this process holds of a device, only to be faster and gentler: nothing of it is needed to find the device
 * again. Descriptors of its links tell at once that one is dead, and can cut it; a device that was given up is held
 * open, so that its index goes to nobody else.
 */
import type { Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import type { Link } from './links.ts';
import { devicePath, type DeviceHold, type NbdMachine } from './nbd-machine.ts';

/** What opens a device waits no longer: the kernel may be reading its partitions, from a server that is away. */
const holdMs = 2000;

export class DeviceMemory {
  /** Null until it was seen. */
  index: number | null = null;
  /** Links that the kernel uses, of which we have descriptors. */
  links: readonly Link[] = [];
  /** Inode numbers of dead links that we have closed and the kernel not replaced yet. */
  missing: readonly string[] = [];
  /** The kernel said that a link died; not looked at yet. */
  isReported = false;
  /** How many requests were answered at the last look; null when nobody looked. */
  completed: number | null = null;
  /** Requests are surely not limited, as they are while a size is set. */
  requestsWait = false;
  /** The kernel asks early about requests: see request-limits.ts. */
  asksEarly = false;
  /** When links of which we have no descriptor are to be looked at again, by the monotonic clock. */
  recheckAtMs = 0;
  #hold: DeviceHold | null = null;
  /** While the device is being opened. */
  #holding: Promise<void> | null = null;

  get isHeld(): boolean {
    return this.#hold !== null || this.#holding !== null;
  }

  cutLinks(): void {
    for (const link of this.links) link.cut();
  }

  closeLinks(): void {
    for (const link of this.links) link.close();
    this.links = [];
    this.missing = [];
  }

  /** Opens the device and keeps it open; when that takes too long, it goes on by itself. */
  async hold(
    index: number,
    tools: { machine: NbdMachine; clock: Clock; logger: Logger },
  ): Promise<void> {
    if (this.isHeld) return;
    const holding = tools.machine.hold(index).then(
      async (hold) => {
        if (this.#holding === holding) [this.#hold, this.#holding] = [hold, null];
        else await hold.close(); // released in the meantime
      },
      (error: unknown) => {
        if (this.#holding === holding) this.#holding = null;
        tools.logger.warn('device cannot be held open', { device: devicePath(index), error });
      },
    );
    this.#holding = holding;
    const opened = new AbortController();
    const limit = tools.clock.sleep(holdMs, opened.signal).catch(() => undefined);
    await Promise.race([holding, limit]);
    opened.abort();
  }

  /** Lets go of everything; the device itself stays as it is. */
  async release(): Promise<void> {
    this.closeLinks();
    const hold = this.#hold;
    [this.#hold, this.#holding] = [null, null];
    await hold?.close();
  }
}
