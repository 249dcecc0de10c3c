/** What every role's metrics hold: the process itself, and who it is. */
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client';

/** A registry of its own, so that two in one process do not meet. */
export function processRegistry(): Registry {
  const registry = new Registry();
  // Every 10 ms unless told: too often for a process that may have nothing else to do.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 100 });
  return registry;
}

/** A series that is always 1; its labels tell about the process. */
export function addInfo(registry: Registry, name: string, labels: Record<string, string>): void {
  new Gauge({
    name,
    help: 'Always 1; the labels say what runs here.',
    labelNames: Object.keys(labels),
    registers: [registry],
  }).set(labels, 1);
}
