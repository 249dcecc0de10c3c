/**
 * One changing operation per volume at a time. A second one is refused at once with OPERATION_PENDING instead of
 * queueing: the caller repeats it anyway, and queues of calls whose callers gave up help nobody.
 */
import { VolumeError } from '../volumes/errors.ts';

export class VolumeLocks {
  readonly #held = new Map<string, string>();

  /** Runs `body` alone for this volume. OPERATION_PENDING while another operation runs. */
  async run<Result>(volumeId: string, what: string, body: () => Promise<Result>): Promise<Result> {
    const holder = this.#held.get(volumeId);
    if (holder !== undefined) {
      throw new VolumeError(
        'OPERATION_PENDING',
        `${what} volume ${volumeId}: ${holder} is still under way`,
      );
    }
    this.#held.set(volumeId, what);
    try {
      return await body();
    } finally {
      this.#held.delete(volumeId);
    }
  }
}
