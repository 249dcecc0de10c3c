/**
 * The metrics of a volumedriver. What the engine knows is asked of it when somebody reads the page, at most once in a few
 * seconds; an engine that does not answer is not ready, and the numbers of the last answer stay.
 */
import { Gauge, type Registry } from 'prom-client';
import type { Clock } from '../base/clock.ts';
import { allPages } from '../volumes/all-pages.ts';
import type { PageRequest, VolumeService } from '../volumes/volume-service.ts';
import type { MetricsPage } from './http-server.ts';
import { Question } from './question.ts';
import { addInfo, processRegistry } from './process-metrics.ts';

const freshMs = 5_000;
const answerMs = 3_000;
const pageVolumes = 1000;

export interface VolumedriverFacts {
  readonly driverName: string;
  readonly nodeId: string;
  readonly version: string;
  readonly clock: Clock;
  /** Null while the engine recovers. */
  readonly service: () => VolumeService | null;
  /** Why it does not do its work; null when it does. */
  readonly ready: () => Promise<string | null>;
  /** In milliseconds since 1970; null without a certificate. */
  readonly certificateExpiresAtMs: () => number | null;
}

export class VolumedriverMetrics implements MetricsPage {
  readonly registry: Registry = processRegistry();
  readonly #facts: VolumedriverFacts;
  readonly #ready: Gauge;
  readonly #volumes: Gauge<'state'>;
  readonly #volumeBytes: Gauge<'kind'>;
  readonly #capacity: Gauge<'kind'>;
  readonly #certificate: Gauge;
  readonly #engine: Question<void>;

  constructor(facts: VolumedriverFacts) {
    this.#facts = facts;
    const registers = [this.registry];
    const { driverName: driver, nodeId: node, version, clock } = facts;
    this.#engine = new Question(clock, freshMs, () => this.#update());
    addInfo(this.registry, 'volumedriver_info', { driver, node, version });
    this.#ready = new Gauge({
      name: 'volumedriver_ready',
      help: 'Whether /readyz says yes.',
      registers,
    });
    this.#volumes = new Gauge({
      name: 'volumedriver_volumes',
      help: 'Volumes: all, those with connected clients (open), those that stopped after an error (halted).',
      labelNames: ['state'],
      registers,
    });
    this.#volumeBytes = new Gauge({
      name: 'volumedriver_volume_bytes',
      help: 'Bytes of all volumes together: their sizes, and what they and their snapshots use.',
      labelNames: ['kind'],
      registers,
    });
    this.#capacity = new Gauge({
      name: 'volumedriver_capacity_bytes',
      help: 'Bytes of the backend in all, and those that new data can still take.',
      labelNames: ['kind'],
      registers,
    });
    this.#certificate = new Gauge({
      name: 'volumedriver_certificate_expiry_timestamp_seconds',
      help: 'When the certificate for controllers expires, in seconds since 1970; 0 without one.',
      registers,
    });
    for (const state of ['all', 'open', 'halted']) this.#volumes.set({ state }, 0);
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  async metrics(): Promise<string> {
    const { ready, certificateExpiresAtMs } = this.#facts;
    const expiresAtMs = certificateExpiresAtMs();
    this.#certificate.set(expiresAtMs === null ? 0 : expiresAtMs / 1000);
    this.#ready.set((await ready()) === null ? 1 : 0);
    // From an engine that is busy or stuck, the numbers come with a later page.
    await this.#engine.ask(answerMs).catch(() => undefined);
    return await this.registry.metrics();
  }

  async #update(): Promise<void> {
    const service = this.#facts.service();
    if (service === null) return;
    const { totalBytes, availableBytes } = await service.capacity();
    this.#capacity.set({ kind: 'total' }, totalBytes);
    this.#capacity.set({ kind: 'available' }, availableBytes);
    const counts = { all: 0, open: 0, halted: 0 };
    const bytes = { size: 0, used: 0 };
    const list = (page: PageRequest) => service.listVolumes({ ...page, limit: pageVolumes });
    for await (const volume of allPages(list)) {
      counts.all += 1;
      if (volume.clients > 0) counts.open += 1;
      if (volume.halted !== null) counts.halted += 1;
      bytes.size += volume.sizeBytes;
      bytes.used += volume.usedBytes;
    }
    for (const [state, count] of Object.entries(counts)) this.#volumes.set({ state }, count);
    for (const [kind, count] of Object.entries(bytes)) this.#volumeBytes.set({ kind }, count);
  }
}
