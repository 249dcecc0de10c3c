/** The operations of a volume's map as the queue applies them: at once, or later, then shown by the pending changes. */
import { pageEntries } from '../format/constants.ts';
import { leafMissing } from './map-root.ts';
import type { LocatedRun, MapTree } from './map-tree.ts';
import type { MissingPage } from './page-session.ts';
import type { PendingChanges, PendingClear, PendingSet } from './pending-changes.ts';
import type { QueuedOperation } from './update-queue.ts';

/** What a clear weighs in the queue: look-ups scan the queued clears one by one. */
const clearClusters = 256;

/** Maps `clusters` clusters of one leaf to a part of a run. */
export class SetOperation implements QueuedOperation {
  readonly cluster: number;
  readonly clusters: number;
  readonly #tree: MapTree;
  readonly #pending: PendingChanges;
  readonly #run: LocatedRun;
  readonly #from: number;
  #queued: PendingSet | undefined;

  constructor(
    map: { readonly tree: MapTree; readonly pending: PendingChanges },
    part: { readonly cluster: number; readonly clusters: number; readonly from: number },
    run: LocatedRun,
  ) {
    this.#tree = map.tree;
    this.#pending = map.pending;
    this.cluster = part.cluster;
    this.clusters = part.clusters;
    this.#from = part.from;
    this.#run = run;
  }

  queued(number: number): void {
    const { objectId, index, checksums } = this.#run;
    this.#queued = {
      number,
      cluster: this.cluster,
      objectId,
      index: index + this.#from,
      checksums: checksums.slice(this.#from, this.#from + this.clusters),
    };
    this.#pending.addSet(this.#queued);
  }

  apply(): MissingPage | undefined {
    const run = this.#queued ?? this.#run;
    const from = this.#queued === undefined ? this.#from : 0;
    if (!this.#tree.setInLeaf(this.cluster, this.clusters, run, from)) return this.#tree.missing;
    if (this.#queued !== undefined) this.#pending.removeSet(this.#queued);
    return undefined;
  }

  missing(): MissingPage | undefined {
    return missingLeaf(this.#tree, this.cluster);
  }
}

/** Makes holes of [cluster, end). */
export class ClearOperation implements QueuedOperation {
  readonly clusters = clearClusters;
  readonly #tree: MapTree;
  readonly #pending: PendingChanges;
  readonly #cluster: number;
  readonly #end: number;
  #queued: PendingClear | undefined;

  constructor(
    map: { readonly tree: MapTree; readonly pending: PendingChanges },
    cluster: number,
    end: number,
  ) {
    this.#tree = map.tree;
    this.#pending = map.pending;
    this.#cluster = cluster;
    this.#end = end;
  }

  queued(number: number): void {
    this.#queued = { number, cluster: this.#cluster, end: this.#end };
    this.#pending.addClear(this.#queued);
  }

  apply(): MissingPage | undefined {
    if (!this.#tree.clear(this.#cluster, this.#end)) return this.#tree.missing;
    if (this.#queued !== undefined) this.#pending.removeClear(this.#queued);
    return undefined;
  }

  /** Only leaves that are cleared in part are needed. */
  missing(): MissingPage | undefined {
    const edges = [this.#cluster, this.#end].filter((cluster) => cluster % pageEntries !== 0);
    for (const cluster of edges) {
      const missing = missingLeaf(this.#tree, cluster);
      if (missing !== undefined) return missing;
    }
    return undefined;
  }
}

function missingLeaf(tree: MapTree, cluster: number): MissingPage | undefined {
  const leaf = Math.floor(cluster / pageEntries);
  return tree.findLeaf(leaf) === leafMissing ? tree.missing : undefined;
}
