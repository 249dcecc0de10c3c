/** What every role's metrics hold: the process itself, and who it is. */
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client';

/** A registry of its own, so that two in one process do not meet. */
export function processRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
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
