/**
 * Looks ranges up leaf by leaf: synchronously while every page is resident, else it goes on when the missing pages
 * have been loaded. A range of several leaves may show each at a different moment between call and answer.
 */
import type { Clock } from '../../base/clock.ts';
import { hasCode } from '../../volumes/errors.ts';
import { pageEntries } from '../format/constants.ts';
import { backoffMs } from './backoff.ts';
import { leafAbsent, leafMissing, LeafFinder, type MapRoot } from './map-root.ts';
import { RunCollector, type MappedRun } from './mapped-run.ts';
import type { PagePool } from './page-pool.ts';
import { PageSession, type MissingPage } from './page-session.ts';
import { entryWords, type PageSource } from './page.ts';

/** Adds the runs of [cluster, end), which lie in one leaf, or says which page is missing. */
export type ReadLeaf = (
  cluster: number,
  end: number,
  runs: RunCollector,
) => MissingPage | undefined;

/** How often an UNAVAILABLE page is asked for before a look-up fails: about three seconds. */
const attemptsMax = 6;

interface Walk {
  readonly read: ReadLeaf;
  readonly runs: RunCollector;
  readonly end: number;
  cluster: number;
}

export class MapReader {
  readonly #pool: PagePool;
  readonly #source: PageSource;
  readonly #clock: Clock;
  readonly #finder: LeafFinder;

  constructor(pool: PagePool, source: PageSource, clock: Clock) {
    this.#pool = pool;
    this.#source = source;
    this.#clock = clock;
    this.#finder = new LeafFinder(pool);
  }

  /** Errors are rejections, never thrown. */
  lookup(cluster: number, count: number, read: ReadLeaf): MappedRun[] | Promise<MappedRun[]> {
    const walk = { read, runs: new RunCollector(count), cluster, end: cluster + count };
    let missing: MissingPage | undefined;
    let failure: Promise<never> | undefined;
    try {
      missing = this.#advance(walk);
    } catch (error) {
      failure = rejection(error);
    }
    if (failure !== undefined) return failure;
    return missing === undefined ? walk.runs.finish() : this.#load(walk, missing);
  }

  /** The leaf's entries [cluster, end) of one root. */
  readLeaf(
    root: MapRoot,
    cluster: number,
    end: number,
    runs: RunCollector,
  ): MissingPage | undefined {
    const leaf = Math.floor(cluster / pageEntries);
    const frame = this.#finder.find(root, leaf);
    if (frame === leafMissing) return this.#finder.missing;
    if (frame === leafAbsent) runs.addHole(end - cluster);
    else {
      const at = (cluster - leaf * pageEntries) * entryWords;
      runs.addEntries(this.#pool.words(frame), at, end - cluster);
    }
    return undefined;
  }

  /** Reads leaves until the end or until a page is missing. */
  #advance(walk: Walk, session?: PageSession): MissingPage | undefined {
    while (walk.cluster < walk.end) {
      const leafEnd = (Math.floor(walk.cluster / pageEntries) + 1) * pageEntries;
      const end = Math.min(walk.end, leafEnd);
      this.#pool.begin();
      const missing = walk.read(walk.cluster, end, walk.runs);
      if (missing !== undefined) return missing;
      session?.unpin();
      walk.cluster = end;
    }
    return undefined;
  }

  #load(walk: Walk, missing: MissingPage): MappedRun[] | Promise<MappedRun[]> {
    if (!this.#pool.reading.tryEnter()) return this.#loadLater(walk);
    const session = new PageSession(this.#pool, this.#source);
    const loading = this.#loadNow(walk, session, missing);
    if (loading !== true) return this.#finish(walk, session, loading);
    this.#leave(session);
    return walk.runs.finish();
  }

  /** True when the walk came to its end at once, else what it waits for. */
  #loadNow(walk: Walk, session: PageSession, first: MissingPage): true | Promise<void> {
    let missing: MissingPage | undefined = first;
    let loading: true | Promise<void> = true;
    try {
      while (missing !== undefined && loading === true) {
        loading = session.load(missing);
        if (loading === true) missing = this.#advance(walk, session);
      }
    } catch (error) {
      loading = rejection(error);
    }
    return loading;
  }

  async #loadLater(walk: Walk): Promise<MappedRun[]> {
    await this.#pool.reading.enter();
    const session = new PageSession(this.#pool, this.#source);
    return await this.#finish(walk, session, Promise.resolve());
  }

  /** Goes on after `loading`; ends the session. */
  async #finish(walk: Walk, session: PageSession, loading: Promise<void>): Promise<MappedRun[]> {
    try {
      let failures = 0;
      for (let waitFor: true | Promise<void> = loading; ;) {
        try {
          if (waitFor !== true) await waitFor;
          const missing = this.#advance(walk, session);
          if (missing === undefined) return walk.runs.finish();
          waitFor = session.load(missing);
        } catch (error) {
          if (!hasCode(error, 'UNAVAILABLE') || ++failures >= attemptsMax) throw error;
          await this.#backOff(session, backoffMs(failures));
          waitFor = true;
        }
      }
    } finally {
      this.#leave(session);
    }
  }

  /** Lets others read while it waits to try again. */
  async #backOff(session: PageSession, ms: number): Promise<void> {
    session.unpin();
    this.#pool.reading.leave();
    try {
      await this.#clock.sleep(ms);
    } finally {
      await this.#pool.reading.enter();
    }
  }

  #leave(session: PageSession): void {
    session.end();
    this.#pool.reading.leave();
  }
}

/** What was thrown, as an asynchronous caller expects it. */
async function rejection(error: unknown): Promise<never> {
  throw error;
}
