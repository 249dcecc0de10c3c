/** What the clusters of a map should be, and how an answer of the map is held against that. */
import type { MappedRun } from '../../src/volumedriver/map/volume-map.ts';

export interface Entry {
  readonly objectId: number;
  readonly index: number;
  readonly checksum: number;
}
export type Content = Map<number, Entry>;

/** A look-up under way. */
export interface Reading {
  readonly cluster: number;
  /** What each cluster was at the call or has been since. */
  readonly accepted: Set<string>[];
}

const hole = 'hole';

export function keyOf(location: { objectId: number; index: number }): string {
  return `${location.objectId}/${location.index}`;
}

export function textOf(entry: Entry | undefined): string {
  return entry === undefined ? hole : `${keyOf(entry)} ${entry.checksum}`;
}

/** One text per cluster; throws when runs are not maximal. */
function* clustersOf(runs: MappedRun[]): Generator<string> {
  let last: MappedRun | undefined;
  for (const run of runs) {
    const isSplit =
      last !== undefined &&
      last.objectId === run.objectId &&
      (run.objectId === 0 || last.index + last.clusterCount === run.index);
    if (isSplit || run.clusterCount === 0) throw new Error('runs are not maximal');
    if (run.checksums.length !== (run.objectId === 0 ? 0 : run.clusterCount)) {
      throw new Error('a run has other checksums than clusters');
    }
    for (let n = 0; n < run.clusterCount; n++) {
      const { objectId, index, checksums } = run;
      yield objectId === 0
        ? hole
        : textOf({ objectId, index: index + n, checksum: checksums[n] ?? 0 });
    }
    last = run;
  }
}

export function check(reading: Reading, runs: MappedRun[]): void {
  let n = 0;
  for (const text of clustersOf(runs)) {
    if (reading.accepted[n]?.has(text) !== true) {
      throw new Error(`cluster ${reading.cluster + n} is ${text}`);
    }
    n++;
  }
  if (n !== reading.accepted.length) throw new Error('an answer has another length');
}

export function checkContent(content: Content, first: number, runs: MappedRun[]): void {
  let cluster = first;
  for (const text of clustersOf(runs)) {
    if (text !== textOf(content.get(cluster))) throw new Error(`cluster ${cluster} is ${text}`);
    cluster++;
  }
}
