/**
 * One call at a time for a volume, in this process. A sidecar gives a call up after a minute and repeats it, while the
 * first one goes on: the two could choose different nodes for one volume, or take a grant that was given since. (Between
 * two controllers it is the volumedrivers that keep calls apart.)
 */
import { VolumeError } from '../volumes/errors.ts';

export class OneAtATime {
  readonly #running = new Set<string>();

  /** OPERATION_PENDING while another call for the same `subject` runs. */
  async run<Result>(subject: string, call: () => Promise<Result>): Promise<Result> {
    if (this.#running.has(subject)) {
      throw new VolumeError('OPERATION_PENDING', `${subject}: an earlier call for it still runs`);
    }
    this.#running.add(subject);
    try {
      return await call();
    } finally {
      this.#running.delete(subject);
    }
  }
}
