/**
 * One operation at a time on each volume's device. A request that finds another request is refused; one that finds a
 * repair waits for it, since nobody asked for that. A repair that finds anything is refused: it is repeated anyway.
 */
import type { Clock } from '../base/clock.ts';
import { VolumeError } from '../volumes/errors.ts';
import { waitUntil } from './waiting.ts';

export class DeviceLocks {
  readonly #busy = new Set<string>();
  /** Those of `busy` that are repairs. They are bounded in time. */
  readonly #repairs = new Map<string, Promise<unknown>>();

  get size(): number {
    return this.#busy.size;
  }

  /** OPERATION_PENDING while another request has the volume. */
  async request<T>(volumeId: string, work: () => Promise<T>): Promise<T> {
    const repair = this.#repairs.get(volumeId);
    // Its outcome is its own business.
    if (repair !== undefined) await repair.catch(() => undefined);
    return await this.#alone(volumeId, work);
  }

  /** OPERATION_PENDING while anything has the volume. */
  async repair<T>(volumeId: string, work: () => Promise<T>): Promise<T> {
    const repair = this.#alone(volumeId, work);
    if (!this.#repairs.has(volumeId)) this.#repairs.set(volumeId, repair);
    try {
      return await repair;
    } finally {
      if (this.#repairs.get(volumeId) === repair) this.#repairs.delete(volumeId);
    }
  }

  /** False when operations still run after `timeoutMs`. */
  async idle(clock: Clock, timeoutMs: number): Promise<boolean> {
    const question = (): Promise<boolean> => Promise.resolve(this.#busy.size === 0);
    return await waitUntil(clock, { timeoutMs, everyMs: 20 }, question);
  }

  async #alone<T>(volumeId: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(volumeId)) {
      const why = 'another operation on its device is running';
      throw new VolumeError('OPERATION_PENDING', `device of ${volumeId}: ${why}`);
    }
    this.#busy.add(volumeId);
    try {
      return await work();
    } finally {
      this.#busy.delete(volumeId);
    }
  }
}
