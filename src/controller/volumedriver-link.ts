/**
 * The connection to one volumedriver and what it says of itself. A volumedriver may be started again behind the same
 * address, with another backend even, so its word counts for a few seconds only; and one that did not answer is not
 * asked again at once, or every call would wait for a node that is down.
 */
import type { Clock } from '../base/clock.ts';
import { VolumeError, toVolumeError } from '../volumes/errors.ts';
import type { DriverInfo, VolumeService } from '../volumes/volume-service.ts';

/** Where a volumedriver runs. */
export interface VolumedriverPlace {
  /** Of the pod: another one is another volumedriver. */
  readonly uid: string;
  readonly nodeId: string;
  readonly ip: string;
}

export interface VolumedriverConnection extends VolumeService {
  close(): void;
}

/** How long it may take to answer: connected or not, it has nothing to look up. */
const askMs = 5_000;
/** How long an answer counts. */
const answerMs = 10_000;
/** How long a failure counts. */
const failureMs = 2_000;

interface Outcome {
  readonly atMs: number;
  readonly result: DriverInfo | VolumeError;
}

export class VolumedriverLink {
  readonly place: VolumedriverPlace;
  readonly connection: VolumedriverConnection;
  readonly #clock: Clock;
  readonly #accept: (info: DriverInfo) => Promise<void>;
  #last: Outcome | undefined;
  #told: DriverInfo | undefined;
  #asking: Promise<DriverInfo> | undefined;

  /** `accept` is called with each new answer, before anybody uses it; it may reject. */
  constructor(options: {
    place: VolumedriverPlace;
    connection: VolumedriverConnection;
    clock: Clock;
    accept: (info: DriverInfo) => Promise<void>;
  }) {
    this.place = options.place;
    this.connection = options.connection;
    this.#clock = options.clock;
    this.#accept = options.accept;
  }

  /** What it said last, accepted or not. */
  get told(): DriverInfo | undefined {
    return this.#told;
  }

  /** Why it does not answer; undefined while it does. */
  get failure(): VolumeError | undefined {
    return this.#last?.result instanceof VolumeError ? this.#last.result : undefined;
  }

  /** UNAVAILABLE when it does not answer, or whatever `accept` says. */
  async info(when: 'lately' | 'now' = 'lately'): Promise<DriverInfo> {
    const last = this.#last;
    const ageMs = last === undefined ? Infinity : this.#clock.monotonicMs() - last.atMs;
    if (last?.result instanceof VolumeError && ageMs < failureMs) throw last.result;
    const mayBeOld = when === 'lately' && ageMs < answerMs;
    if (mayBeOld && last !== undefined && !(last.result instanceof VolumeError)) return last.result;
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
    });
    return await this.#asking;
  }

  close(): void {
    this.connection.close();
  }

  async #ask(): Promise<DriverInfo> {
    try {
      const info = await this.#infoInTime();
      if (!info.ready) throw new VolumeError('UNAVAILABLE', 'its volumedriver is still starting');
      this.#told = info;
      await this.#accept(info);
      this.#last = { atMs: this.#clock.monotonicMs(), result: info };
      return info;
    } catch (error) {
      const failure = toVolumeError(error, 'ask a volumedriver', 'UNAVAILABLE');
      this.#last = { atMs: this.#clock.monotonicMs(), result: failure };
      throw failure;
    }
  }

  async #infoInTime(): Promise<DriverInfo> {
    const answered = new AbortController();
    const late = this.#clock.sleep(askMs, answered.signal).then(
      () => {
        throw new VolumeError('UNAVAILABLE', `no answer within ${askMs} ms`);
      },
      () => undefined, // the answer was faster
    );
    try {
      const answer = this.connection.info();
      await Promise.race([answer, late]);
      return await answer;
    } finally {
      answered.abort();
    }
  }
}
