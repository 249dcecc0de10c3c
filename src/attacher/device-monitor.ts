/**
 * Looks after attached devices: notices that one lost its volumedriver, has it healed until it works again, and gives
 * it up when waiting is over or when the volumedriver refuses the export for good. Each device has a loop of its
 * own, so that one that hangs keeps no other waiting; only the number of attempts at a time is bounded.
 */
import pLimit from 'p-limit';
import type { Clock } from '../base/clock.ts';
import { describeError, type Logger } from '../base/logger.ts';
import type { DeviceState } from '../volumes/device-service.ts';
import { hasCode } from '../volumes/errors.ts';
import type { AttacherMetrics } from './metrics.ts';
import type { Inspection } from './strategy.ts';

/** heal and fail reject with OPERATION_PENDING while another operation has the device. */
export interface WatchedDevice {
  readonly volumeId: string;
  isSuspect(): Promise<boolean>;
  heal(): Promise<Inspection>;
  fail(reason: string): Promise<void>;
}

export interface MonitorLimits {
  /** Between two looks at a device that works. */
  readonly checkMs: number;
  /** Between two attempts to heal, doubling up to the second; together with the kernel's 2 s, healing stays below 5. */
  readonly retryMsFirst: number;
  readonly retryMsMax: number;
  /** A refusal that lasts so long is meant: a volumedriver that just started may refuse for a moment. */
  readonly refusedMs: number;
  /** How long I/O waits for a lost volumedriver before it fails. */
  readonly giveUpMs: number;
}

export const defaultMonitorLimits: Omit<MonitorLimits, 'giveUpMs'> = {
  checkMs: 1000,
  retryMsFirst: 100,
  retryMsMax: 1000,
  refusedMs: 5000,
};

export interface MonitorOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: AttacherMetrics;
  readonly limits: MonitorLimits;
}

const attemptsAtATime = 16;

export class DeviceMonitor {
  readonly #options: MonitorOptions;
  readonly #watches = new Map<string, Watch>();
  readonly #ending = new Set<Promise<void>>();
  readonly #limit = pLimit(attemptsAtATime);

  constructor(options: MonitorOptions) {
    this.#options = options;
  }

  /** Starts to look after a device, at once. */
  watch(key: string, device: WatchedDevice): void {
    this.forget(key);
    const watch = new Watch(device, {
      ...this.#options,
      limit: (attempt) => this.#limit(attempt),
      onState: () => {
        this.#count();
      },
    });
    this.#watches.set(key, watch);
    const ended = watch.run();
    this.#ending.add(ended);
    void ended.finally(() => this.#ending.delete(ended));
    this.#count();
  }

  /** Stops to look after it; an attempt that runs is let run. */
  forget(key: string): void {
    this.#watches.get(key)?.stop();
    if (this.#watches.delete(key)) this.#count();
  }

  /** There is reason to look now. */
  nudge(key: string): void {
    this.#watches.get(key)?.nudge();
  }

  /** Resolves when no attempt runs any more. */
  async close(): Promise<void> {
    for (const key of [...this.#watches.keys()]) this.forget(key);
    await Promise.all(this.#ending);
  }

  #count(): void {
    const counts: Record<DeviceState, number> = { attached: 0, waiting: 0, broken: 0 };
    for (const { state } of this.#watches.values()) counts[state] += 1;
    this.#options.metrics.devices(counts);
  }
}

interface WatchOptions extends MonitorOptions {
  readonly limit: <T>(attempt: () => Promise<T>) => Promise<T>;
  readonly onState: () => void;
}

interface Trouble {
  readonly sinceMs: number;
  readonly refusedSinceMs: number | null;
  readonly retryMs: number;
  readonly reason: string;
}

class Watch {
  state: DeviceState = 'attached';
  readonly #device: WatchedDevice;
  readonly #options: WatchOptions;
  readonly #logger: Logger;
  #trouble: Trouble | null = null;
  readonly #stop = new AbortController();
  /** Nothing is known of a device that was just attached, or found at the start. */
  #nudged = true;
  #pause = new AbortController();

  constructor(device: WatchedDevice, options: WatchOptions) {
    this.#device = device;
    this.#options = options;
    this.#logger = options.logger.child({ volumeId: device.volumeId });
  }

  stop(): void {
    this.#stop.abort();
  }

  nudge(): void {
    this.#nudged = true;
    // One in trouble is looked at often enough, and gives a server time that closes what it has just accepted.
    if (this.#trouble === null) this.#pause.abort();
  }

  /** Until stop() or until the device was given up. Never rejects. */
  async run(): Promise<void> {
    let again = false;
    while (!this.#stop.signal.aborted) {
      const hasReason: boolean = this.#nudged || again;
      this.#nudged = false;
      again = false;
      let waitMs = this.#options.limits.checkMs;
      try {
        if ((await this.#look(hasReason)) === 'given up') return;
        waitMs = this.#trouble?.retryMs ?? waitMs;
      } catch (error) {
        // When the other operation is over, there is as much reason to look as now.
        again = hasReason;
        if (hasCode(error, 'OPERATION_PENDING')) waitMs = this.#options.limits.retryMsFirst;
        else this.#logger.error('device could not be looked after', { error });
      }
      await this.#sleep(waitMs);
    }
  }

  /** stop() ends it at once; nudge(), where nothing is wrong, after the shortest pause. */
  async #sleep(ms: number): Promise<void> {
    const { clock, limits } = this.#options;
    const firstMs = Math.min(ms, limits.retryMsFirst);
    await clock.sleep(firstMs, this.#stop.signal).catch(() => undefined);
    if (this.#stop.signal.aborted || (this.#nudged && this.#trouble === null)) return;
    this.#pause = new AbortController();
    const ended = AbortSignal.any([this.#stop.signal, this.#pause.signal]);
    await clock.sleep(ms - firstMs, ended).catch(() => undefined);
  }

  async #look(hasReason: boolean): Promise<'watched' | 'given up'> {
    if (this.#trouble === null && !hasReason && !(await this.#device.isSuspect())) return 'watched';
    const startMs = this.#options.clock.monotonicMs();
    const inspection = await this.#options.limit(() => this.#heal());
    // Forgotten meanwhile: what it found is of a device that may be another by now.
    if (this.#stop.signal.aborted) return 'watched';
    if (inspection.state === 'attached') {
      this.#works(inspection.healed === true ? startMs : null);
      return 'watched';
    }
    this.#note(inspection);
    const reason = this.#whyHopeless();
    if (reason === null) return 'watched';
    await this.#device.fail(reason);
    this.#logger.error('device is given up: its I/O fails from now on', { reason });
    this.#enter('broken');
    this.#options.metrics.gaveUp();
    return 'given up';
  }

  /** What goes wrong in an attempt is a reason to wait, and to give up in the end. */
  async #heal(): Promise<Inspection> {
    try {
      return await this.#device.heal();
    } catch (error) {
      if (hasCode(error, 'OPERATION_PENDING')) throw error;
      return { path: '', sizeBytes: 0, state: 'waiting', reason: describeError(error) };
    }
  }

  /** `healedSinceMs`: when the attempt began that made it work; null when it did not have to. */
  #works(healedSinceMs: number | null): void {
    const sinceMs = this.#trouble?.sinceMs ?? healedSinceMs;
    this.#trouble = null;
    this.#enter('attached');
    if (sinceMs === null) return;
    const pauseMs = Math.round(this.#options.clock.monotonicMs() - sinceMs);
    this.#logger.info('device works again', { pauseMs });
    this.#options.metrics.healed(pauseMs);
  }

  #note({ path, state, reason }: Inspection): void {
    const { clock, limits, metrics } = this.#options;
    const nowMs = clock.monotonicMs();
    const last = this.#trouble;
    if (last === null || this.state !== state) {
      this.#logger.warn('device does not work', { device: path, state, reason });
    }
    metrics.healFailed();
    this.#trouble = {
      sinceMs: last?.sinceMs ?? nowMs,
      refusedSinceMs: state === 'broken' ? (last?.refusedSinceMs ?? nowMs) : null,
      retryMs: last === null ? limits.retryMsFirst : Math.min(2 * last.retryMs, limits.retryMsMax),
      reason,
    };
    this.#enter(state);
  }

  #whyHopeless(): string | null {
    if (this.#trouble === null) return null;
    const { clock, limits } = this.#options;
    const { sinceMs, refusedSinceMs, reason } = this.#trouble;
    const nowMs = clock.monotonicMs();
    if (refusedSinceMs !== null) return nowMs - refusedSinceMs < limits.refusedMs ? null : reason;
    if (nowMs - sinceMs < limits.giveUpMs) return null;
    return `no volumedriver for ${Math.round(limits.giveUpMs / 1000)} s: ${reason}`;
  }

  #enter(state: DeviceState): void {
    if (this.state === state) return;
    this.state = state;
    this.#options.onState();
  }
}
