/** What a controller measures: its calls, and the backends that it knows. */
import { Gauge, type Registry } from 'prom-client';
import { CallMetrics, type ObservedCall } from './call-metrics.ts';
import { addInfo, processRegistry } from './process-metrics.ts';

export interface BackendCounts {
  readonly registered: number;
  readonly forgotten: number;
  /** Of the rest: those whose volumedriver does not answer. */
  readonly silent: number;
}

export class ControllerMetrics {
  readonly registry: Registry = processRegistry();
  readonly observe: (call: ObservedCall) => void;

  constructor(labels: { version: string; driver: string }) {
    addInfo(this.registry, 'volumedriver_controller_info', labels);
    this.observe = new CallMetrics(this.registry, 'volumedriver_controller').observe;
  }

  /** Shows what `counts` says whenever the metrics are read. */
  showBackends(counts: () => BackendCounts): void {
    const gauge = new Gauge({
      name: 'volumedriver_controller_backends',
      help: 'Backends: registered in all, forgotten, and of the rest those whose volumedriver does not answer (silent).',
      labelNames: ['state'],
      registers: [this.registry],
      collect: () => {
        const { registered, forgotten, silent } = counts();
        gauge.set({ state: 'registered' }, registered);
        gauge.set({ state: 'forgotten' }, forgotten);
        gauge.set({ state: 'silent' }, silent);
      },
    });
  }
}
