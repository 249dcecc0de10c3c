/**
 * Tells the users of volumes what is wrong with them, and when it is over: a slow loop over all volumes that Kubernetes
 * has, since nobody else asks about them all. Every replica runs it; the sink makes one event of what several say.
 */
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { haltedProblem, type VolumeProblem } from '../csi/volume-health.ts';
import { allPages } from '../volumes/all-pages.ts';
import { hasCode } from '../volumes/errors.ts';
import type { Volume } from '../volumes/volume.ts';
import { problemOf } from './volume-health.ts';
import { findVolumedriver, type Volumedriver, type Volumedrivers } from './volumedrivers.ts';

export interface HealthSink {
  /** Of all volumes that somebody would look at, as last known. */
  volumeIds(): readonly string[];
  /** Returns at once and never throws. */
  report(event: {
    volumeId: string;
    type: 'Normal' | 'Warning';
    reason: string;
    message: string;
  }): void;
}

export interface HealthWatcherOptions {
  readonly volumedrivers: Volumedrivers;
  readonly sink: HealthSink;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly intervalMs?: number;
}

const intervalMsDefault = 60_000;
/** A volumedriver that is started again is away for a moment: that is no news. */
const unreachableRounds = 2;

/** What was found in one round: volumes by id, per backend; undefined for one that does not answer. */
type Found = ReadonlyMap<string, ReadonlyMap<string, Volume> | undefined>;

export class HealthWatcher {
  readonly #options: HealthWatcherOptions;
  readonly #logger: Logger;
  readonly #stop = new AbortController();
  /** What was reported and is not over, by volume. */
  readonly #reported = new Map<string, VolumeProblem>();
  /** Rounds in which a backend did not answer, one after the other. */
  readonly #silent = new Map<string, number>();
  readonly #loop: Promise<void>;

  constructor(options: HealthWatcherOptions) {
    this.#options = options;
    this.#logger = options.logger.child({ component: 'health-watcher' });
    this.#loop = this.#run();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const { clock, intervalMs = intervalMsDefault } = this.#options;
    const wait = (): Promise<boolean> =>
      clock.sleep(intervalMs, this.#stop.signal).then(
        () => true,
        () => false, // stopped
      );
    while (await wait()) {
      try {
        await this.round();
      } catch (error) {
        this.#logger.warn('the health of volumes is not known', { error });
      }
    }
  }

  /** Looks at every volume once. */
  async round(): Promise<void> {
    const { volumedrivers, sink } = this.#options;
    const found = await this.#list(await volumedrivers.list());
    const volumeIds = new Set(sink.volumeIds());
    for (const volumeId of volumeIds) {
      const problem = await this.#problemOf(volumeId, found);
      if (problem === 'unknown') continue;
      if (problem === undefined) this.#over(volumeId);
      else this.#tell(volumeId, problem);
    }
    for (const volumeId of this.#reported.keys()) {
      if (!volumeIds.has(volumeId)) this.#reported.delete(volumeId);
    }
  }

  async #list(all: readonly Volumedriver[]): Promise<Found> {
    const found = new Map<string, ReadonlyMap<string, Volume> | undefined>();
    await Promise.all(
      all.map(async (one) => {
        const volumes = await this.#volumesOf(one);
        found.set(one.backendId, volumes);
        const silent = this.#silent.get(one.backendId) ?? 0;
        this.#silent.set(one.backendId, volumes === undefined ? silent + 1 : 0);
      }),
    );
    return found;
  }

  /** Undefined when it does not answer. */
  async #volumesOf({ nodeId, volumes }: Volumedriver): Promise<Map<string, Volume> | undefined> {
    const all = new Map<string, Volume>();
    try {
      for await (const volume of allPages((page) => volumes.listVolumes(page))) {
        all.set(volume.id, volume);
      }
      return all;
    } catch (error) {
      this.#logger.info('the volumes of a node cannot be listed', { nodeId, error });
      return undefined;
    }
  }

  /** unknown: wait and see. */
  async #problemOf(volumeId: string, found: Found): Promise<VolumeProblem | 'unknown' | undefined> {
    const { volumedrivers } = this.#options;
    try {
      const volumedriver = await findVolumedriver(volumedrivers, volumeId);
      if (volumedriver === 'unknown') return missing(volumeId);
      if (volumedriver !== 'forgotten') {
        const { backendId } = volumedriver;
        const volume = found.get(backendId)?.get(volumeId);
        if (volume !== undefined) return haltedProblem(volume);
        const silent = this.#silent.get(backendId) ?? 0;
        if (silent > 0 && silent < unreachableRounds) return 'unknown';
      }
      return await problemOf(volumedrivers, volumeId);
    } catch (error) {
      if (hasCode(error, 'VOLUME_NOT_FOUND')) return missing(volumeId);
      this.#logger.info('the health of a volume is not known', { volumeId, error });
      return 'unknown';
    }
  }

  #tell(volumeId: string, problem: VolumeProblem): void {
    const { reason, message } = problem;
    this.#reported.set(volumeId, problem);
    this.#options.sink.report({ volumeId, type: 'Warning', reason, message });
  }

  #over(volumeId: string): void {
    const problem = this.#reported.get(volumeId);
    if (problem === undefined) return;
    this.#reported.delete(volumeId);
    const message = `the volume works again (it was: ${problem.reason})`;
    this.#options.sink.report({ volumeId, type: 'Normal', reason: 'VolumeHealthy', message });
  }
}

function missing(volumeId: string): VolumeProblem {
  return { reason: 'VolumeMissing', message: `no volumedriver has the volume ${volumeId}` };
}
