/** Calls of an API by name, code and duration. */
import { Counter, Histogram, type Registry } from 'prom-client';
import type { VolumeError } from '../volumes/errors.ts';

/** From what a lookup takes to the longest wait for a snapshot that is usual. */
const bucketsSeconds = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 10, 30, 60, 120];

/** A call that is done, as the API's server reports it. */
export interface ObservedCall {
  /** Such as /volumedriver.v1.Volumedriver/GetVolume. */
  readonly path: string;
  readonly error?: VolumeError;
  readonly durationMs: number;
}

export class CallMetrics {
  readonly #calls: Counter<'rpc' | 'code'>;
  readonly #seconds: Histogram<'rpc'>;

  /** `prefix` begins the names of the metrics. */
  constructor(registry: Registry, prefix: string) {
    const registers = [registry];
    this.#calls = new Counter({
      name: `${prefix}_api_calls_total`,
      help: 'Calls of the API that are done, by their name and by the code of their answer (see docs/errors.md).',
      labelNames: ['rpc', 'code'],
      registers,
    });
    this.#seconds = new Histogram({
      name: `${prefix}_api_call_seconds`,
      help: 'How long calls of the API took, successful or not.',
      labelNames: ['rpc'],
      buckets: bucketsSeconds,
      registers,
    });
  }

  readonly observe = ({ path, error, durationMs }: ObservedCall): void => {
    const rpc = path.slice(path.lastIndexOf('/') + 1);
    this.#calls.inc({ rpc, code: error?.code ?? 'OK' });
    this.#seconds.observe({ rpc }, durationMs / 1000);
  };
}
