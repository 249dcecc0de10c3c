/**
 * What queued operations will make of clusters, for look-ups that must see them before they are applied. The latest
 * operation that covers a cluster wins; numbers grow in call order.
 */
import { pageEntries } from '../format/constants.ts';
import { locationLow, writerOf } from '../format/location.ts';
import type { RunCollector } from './mapped-run.ts';
import { entryWords } from './page.ts';

export interface PendingSet {
  readonly number: number;
  readonly cluster: number;
  readonly objectId: number;
  readonly index: number;
  readonly checksums: Uint32Array;
}

export interface PendingClear {
  readonly number: number;
  readonly cluster: number;
  readonly end: number;
}

export class PendingChanges {
  readonly #sets = new Map<number, PendingSet>();
  /** In call order. */
  readonly #clears: PendingClear[] = [];

  get isEmpty(): boolean {
    return this.#sets.size === 0 && this.#clears.length === 0;
  }

  addSet(set: PendingSet): void {
    for (let n = 0; n < set.checksums.length; n++) this.#sets.set(set.cluster + n, set);
  }

  /** The operation has been applied. */
  removeSet(set: PendingSet): void {
    for (let n = 0; n < set.checksums.length; n++) {
      if (this.#sets.get(set.cluster + n) === set) this.#sets.delete(set.cluster + n);
    }
  }

  addClear(clear: PendingClear): void {
    this.#clears.push(clear);
  }

  removeClear(clear: PendingClear): void {
    const at = this.#clears.indexOf(clear);
    if (at >= 0) this.#clears.splice(at, 1);
  }

  /** Whether every cluster of [cluster, end) is told by what is pending. */
  covers(cluster: number, end: number): boolean {
    for (let at = cluster; at < end; at++) {
      if (!this.#sets.has(at) && this.#clearedAt(at) === 0) return false;
    }
    return true;
  }

  /** Adds [cluster, end) of one leaf; `leaf` has the applied state, undefined when the leaf is absent. */
  read(cluster: number, end: number, leaf: Uint32Array | undefined, runs: RunCollector): void {
    for (let at = cluster; at < end; at++) {
      const set = this.#sets.get(at);
      const cleared = this.#clearedAt(at);
      if (set !== undefined && set.number > cleared) {
        const n = at - set.cluster;
        const low = locationLow(set.objectId, set.index + n);
        runs.add(low, writerOf(set.objectId), set.checksums[n] ?? 0);
      } else if (cleared > 0 || leaf === undefined) runs.addHole(1);
      else runs.addEntries(leaf, (at % pageEntries) * entryWords, 1);
    }
  }

  /** The number of the latest clear of a cluster, 0 for none. */
  #clearedAt(cluster: number): number {
    for (let n = this.#clears.length - 1; n >= 0; n--) {
      const clear = this.#clears[n];
      if (clear !== undefined && clear.cluster <= cluster && cluster < clear.end) {
        return clear.number;
      }
    }
    return 0;
  }
}
