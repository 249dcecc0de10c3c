/**
 * The account of one map's locations: which ones must have been reported as released by now, since which interval, and
 * which ones the stored roots reach. Stored pages are read with a decoder of its own.
 */
import { indexOf, objectIdOf } from '../../src/volumedriver/format/location.ts';
import type { PersistedRoot } from '../../src/volumedriver/map/page.ts';
import { keyOf, type Content, type Entry } from './map-contents.ts';
import type { MapBackend } from './map-fixture.ts';

/** What a frozen version must hold. */
export interface VersionAccount {
  /** Where it is persisted; undefined before that. */
  readonly root: PersistedRoot | null | undefined;
  readonly content: Content;
  readonly interval: number;
  readonly isSnapshot: boolean;
}

export class MapAccounts {
  readonly #backend: MapBackend;
  /** Every release so far: location -> intervals. */
  readonly #released = new Map<string, number[]>();
  readonly #expected = new Map<string, number>();
  /** Intervals undone by rollbacks, both ends included. */
  readonly #void: [number, number][] = [];
  /** Those of them whose rollback has been applied. */
  readonly #undone: [number, number][] = [];
  readonly #clusterBirths = new Map<string, number>();
  readonly #orphans = new Set<number>();

  constructor(backend: MapBackend) {
    this.#backend = backend;
  }

  born(entry: Entry, interval: number): void {
    this.#clusterBirths.set(keyOf(entry), interval);
  }

  left(entry: Entry, interval: number): void {
    this.#expected.set(keyOf(entry), interval);
  }

  /** Nothing refers to an object whose persist failed. */
  orphan(objectId: number): void {
    this.#orphans.add(objectId);
  }

  /** A rollback of these intervals has been ordered. */
  rollBack(first: number, last: number): void {
    this.#void.push([first, last]);
  }

  /** The rollback has been applied: nothing may be reported of these intervals any more. */
  rolledBack(first: number, last: number): void {
    this.#undone.push([first, last]);
  }

  /** Throws when the report can't be right. */
  released(objectId: number, index: number, since: number): void {
    const key = keyOf({ objectId, index });
    this.#released.set(key, [...(this.#released.get(key) ?? []), since]);
    if (this.#backend.isMine(objectId) && !this.#backend.objects.has(objectId)) {
      throw new Error(`page ${key} was released before it was stored`);
    }
    if (isWithin(since, this.#undone)) {
      throw new Error(`${key} was released since ${since}, which is undone`);
    }
  }

  /** Throws unless the head stored at `root` holds just `content`, and everything else is accounted for. */
  check(root: PersistedRoot | null, content: Content, versions: readonly VersionAccount[]): void {
    const head = this.#reachable(root);
    for (const [cluster, entry] of content) {
      if (!head.clusters.has(keyOf(entry)))
        throw new Error(`cluster ${cluster} is not in the head`);
    }
    if (head.clusters.size !== content.size) throw new Error('the head has too much');
    for (const version of versions) {
      if (version.root !== undefined) this.#checkVersion(version, version.root);
    }
    for (const [key, birth] of this.#clusterBirths) {
      if (!this.#isVoid(birth)) this.#checkReleases(key, head.clusters.has(key));
    }
    for (const [objectId, { birth, pages }] of this.#backend.objects) {
      if (this.#orphans.has(objectId) || this.#isVoid(birth)) continue;
      pages.forEach((_, index) => {
        const key = keyOf({ objectId, index });
        this.#checkReleases(key, head.pages.has(key));
      });
    }
  }

  #isVoid(interval: number): boolean {
    return isWithin(interval, this.#void);
  }

  /** A location that is not in the head any more was released once, and since the right interval. */
  #checkReleases(key: string, isInHead: boolean): void {
    const released = (this.#released.get(key) ?? []).filter((since) => !this.#isVoid(since));
    if (released.length !== (isInHead ? 0 : 1)) {
      throw new Error(`${key} was released [${released.join()}], in the head: ${String(isInHead)}`);
    }
    const expected = this.#expected.get(key);
    if (!isInHead && expected !== undefined && released[0] !== expected) {
      throw new Error(`${key} was released since ${released.join()}, not ${expected}`);
    }
  }

  /** A snapshot of interval i holds exactly what it should, all of it born by i and released later or not at all. */
  #checkVersion(version: VersionAccount, root: PersistedRoot | null): void {
    const { clusters, pages } = this.#reachable(root);
    if (clusters.size !== version.content.size) throw new Error('a version has other clusters');
    for (const entry of version.content.values()) {
      if (!clusters.has(keyOf(entry))) throw new Error('a version lacks a cluster');
    }
    if (!version.isSnapshot) return;
    for (const key of [...clusters, ...pages.keys()]) {
      const birth = pages.get(key) ?? this.#clusterBirths.get(key) ?? 0;
      const since = (this.#released.get(key) ?? []).filter((s) => !this.#isVoid(s));
      const end = since[0] ?? Infinity;
      if (birth > version.interval || end <= version.interval) {
        throw new Error(`${key} [${birth}, ${end}) is in the snapshot of ${version.interval}`);
      }
    }
  }

  /** Reads stored pages with a decoder of its own. */
  #reachable(root: PersistedRoot | null): { clusters: Set<string>; pages: Map<string, number> } {
    const clusters = new Set<string>();
    const pages = new Map<string, number>();
    const visit = (objectId: number, index: number, level: number): void => {
      const key = keyOf({ objectId, index });
      const object = this.#backend.objects.get(objectId);
      const page = object?.pages[index];
      if (object === undefined || page === undefined || this.#orphans.has(objectId)) {
        throw new Error(`page ${key} is not stored`);
      }
      pages.set(key, object.birth);
      const view = new DataView(page.buffer, page.byteOffset);
      for (let at = 0; at < page.length; at += 16) {
        const writer = view.getUint32(at + 4, true);
        if (writer === 0) continue;
        const low = view.getUint32(at, true);
        const location = { objectId: objectIdOf(writer, low), index: indexOf(low) };
        if (level > 0) visit(location.objectId, location.index, level - 1);
        else clusters.add(keyOf(location));
      }
    };
    if (root !== null) visit(root.objectId, root.index, root.level);
    return { clusters, pages };
  }
}

function isWithin(interval: number, ranges: readonly [number, number][]): boolean {
  return ranges.some(([first, last]) => interval >= first && interval <= last);
}
