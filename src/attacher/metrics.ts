/** What the attacher counts for Prometheus. Whoever counts sees the interface alone. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { processRegistry } from '../monitoring/process-metrics.ts';
import { deviceStates, type DeviceState } from '../volumes/device-service.ts';

export interface AttacherMetrics {
  /** A device works again, `pauseMs` after its trouble was noticed. */
  healed(pauseMs: number): void;
  /** One attempt to heal a device did not help. */
  healFailed(): void;
  /** A device was given up: its I/O fails from now on. */
  gaveUp(): void;
  /** How many devices there are in each state, all told. */
  devices(counts: Readonly<Record<DeviceState, number>>): void;
}

export const noMetrics: AttacherMetrics = {
  healed: () => undefined,
  healFailed: () => undefined,
  gaveUp: () => undefined,
  devices: () => undefined,
};

/** From what nobody notices to the longest wait that is usual (3600 s). */
const pauseBucketsSeconds = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600];

export class PrometheusMetrics implements AttacherMetrics {
  readonly registry: Registry = processRegistry();
  readonly #devices: Gauge<'state'>;
  readonly #heals: Counter<'result'>;
  readonly #failed: Counter;
  readonly #pause: Histogram;

  constructor(about: { strategy: string; driver: string }) {
    const registers = [this.registry];
    new Gauge({
      name: 'volumedriver_attacher_info',
      help: 'Always 1; the labels say how new devices are made and for which CSI driver.',
      labelNames: ['strategy', 'driver'],
      registers,
    }).set(about, 1);
    this.#devices = new Gauge({
      name: 'volumedriver_attacher_devices',
      help: 'Block devices of volumes on this node by state.',
      labelNames: ['state'],
      registers,
    });
    this.#heals = new Counter({
      name: 'volumedriver_attacher_heals_total',
      help: 'Attempts to make a device work again.',
      labelNames: ['result'],
      registers,
    });
    this.#failed = new Counter({
      name: 'volumedriver_attacher_failed_total',
      help: 'Devices that were given up: their I/O fails.',
      registers,
    });
    this.#pause = new Histogram({
      name: 'volumedriver_attacher_pause_seconds',
      help: 'From the moment that trouble with a device was noticed until it worked again.',
      buckets: pauseBucketsSeconds,
      registers,
    });
    // A series that appears only with its first event has no rate for it.
    for (const result of ['healed', 'failed']) this.#heals.inc({ result }, 0);
    for (const state of deviceStates) this.#devices.set({ state }, 0);
  }

  healed(pauseMs: number): void {
    this.#heals.inc({ result: 'healed' });
    this.#pause.observe(pauseMs / 1000);
  }

  healFailed(): void {
    this.#heals.inc({ result: 'failed' });
  }

  gaveUp(): void {
    this.#failed.inc();
  }

  devices(counts: Readonly<Record<DeviceState, number>>): void {
    for (const state of deviceStates) this.#devices.set({ state }, counts[state]);
  }
}
