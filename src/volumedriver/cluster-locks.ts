/**
 * Orders requests that must not overlap: an unaligned write reads its edge clusters, merges and writes them back, and
 * nothing else may change those clusters meanwhile. First come, first served; requests that overlap nothing don't wait.
 */
interface Held {
  from: number;
  to: number;
  done: Promise<void>;
}

export class ClusterLocks {
  #held: Held[] = [];

  /** No lock is held: the fast path needs to ask nothing else. */
  get idle(): boolean {
    return this.#held.length === 0;
  }

  /** Runs `action` once every earlier holder of an overlapping range [from, to) has finished. */
  async run<Result>(from: number, to: number, action: () => Promise<Result>): Promise<Result> {
    const before = this.#held.filter((held) => held.from < to && from < held.to);
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const held: Held = { from, to, done: promise };
    this.#held.push(held);
    try {
      for (const other of before) await other.done;
      return await action();
    } finally {
      this.#held = this.#held.filter((other) => other !== held);
      resolve(undefined);
    }
  }
}
