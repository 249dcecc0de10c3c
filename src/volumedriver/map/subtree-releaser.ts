/**
 * Reports what lies in subtrees that were cut off the head: every cluster and every page, once, with the interval of
 * the cut. It walks in the background, loading pages as it needs them.
 *
 * A page that only this walk refers to is given up as it is passed; a dirty one that a frozen map still holds is
 * marked, so that it is reported if it is ever persisted. The walk owns a reference to each dirty page that it has yet
 * to visit.
 */
import type { Clock } from '../../base/clock.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { indexOf, objectIdOf } from '../format/location.ts';
import { backoffMs } from './backoff.ts';
import { missingAt } from './map-root.ts';
import type { OnRelease } from './map-tree.ts';
import type { PagePool } from './page-pool.ts';
import { PageSession } from './page-session.ts';
import { dirtyWriter, entryWords, pageWords, type PageSource } from './page.ts';

export interface SubtreeReleaserOptions {
  readonly pool: PagePool;
  readonly source: PageSource;
  readonly clock: Clock;
  readonly onRelease: OnRelease;
  /** A subtree can't be read: what it holds is never reported, so its space is lost but nothing else is wrong. */
  readonly onLeak: (error: unknown) => void;
  /** Pages visited before others may run. */
  readonly pagesPerTurn: number;
}

/** Pages of one level that are still to be visited: the entries from `at` on. */
interface Rest {
  readonly words: Uint32Array;
  at: number;
  readonly level: number;
  readonly cut: Cut;
}

interface Cut {
  readonly since: number;
  cancelled: boolean;
}

/** Loads under way at once. */
const walkersMax = 4;

export class SubtreeReleaser {
  readonly #options: SubtreeReleaserOptions;
  readonly #abort = new AbortController();
  #rests: Rest[] = [];
  #walkers = 0;
  /** The cut that each walker's entry belongs to. */
  readonly #walking = new Map<Uint32Array, Cut>();
  readonly #waiting: (() => void)[] = [];

  constructor(options: SubtreeReleaserOptions) {
    this.#options = options;
  }

  /** Subtrees that wait, at least as many as there are pages of memory held by them. */
  get backlog(): number {
    return this.#rests.length;
  }

  /** Takes over the entry's reference to a page of this level. */
  add(words: Uint32Array, at: number, level: number, since: number): void {
    const cut = { since, cancelled: false };
    this.#rests.push({ words: words.slice(at, at + entryWords), at: 0, level, cut });
    if (this.#walkers < walkersMax) void this.#walk();
  }

  /** Forgets the cuts of intervals after `interval`. */
  cancelAfter(interval: number): void {
    for (const cut of this.#walking.values()) if (cut.since > interval) cut.cancelled = true;
    this.#rests = this.#rests.filter((rest) => {
      if (rest.cut.since <= interval) return true;
      this.#drop(rest);
      return false;
    });
  }

  /** Everything that was cut so far has been reported. */
  drained(): Promise<void> {
    if (this.#walkers === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  close(): void {
    this.#abort.abort();
    this.cancelAfter(-Infinity);
  }

  async #walk(): Promise<void> {
    this.#walkers++;
    // The cut is still under way.
    await Promise.resolve();
    const entry = new Uint32Array(entryWords);
    for (let pages = 1; ; pages++) {
      const rest = this.#take(entry);
      if (rest === undefined) break;
      this.#walking.set(entry, rest.cut);
      await this.#visit(entry, rest);
      this.#walking.delete(entry);
      if (pages % this.#options.pagesPerTurn === 0) await this.#sleep(0);
    }
    this.#walkers--;
    if (this.#walkers > 0) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Moves the next entry to visit, with its reference, into `entry`. */
  #take(entry: Uint32Array): Rest | undefined {
    for (let rest = this.#rests.at(-1); rest !== undefined; rest = this.#rests.at(-1)) {
      const { words, at } = rest;
      if (at >= words.length) {
        this.#rests.pop();
        continue;
      }
      rest.at += entryWords;
      if (words[at + 1] === 0) continue;
      entry.set(words.subarray(at, at + entryWords));
      words.fill(0, at, at + entryWords);
      return rest;
    }
    return undefined;
  }

  async #visit(entry: Uint32Array, rest: Rest): Promise<void> {
    const { pool } = this.#options;
    for (let failures = 0; !rest.cut.cancelled;) {
      try {
        if (this.#pass(entry, rest)) return;
        await this.#loadAndPass(entry, rest);
        if (entry[1] === 0) return;
      } catch (error) {
        if (!(error instanceof VolumeError)) throw error;
        if (error.code === 'CORRUPT') {
          this.#options.onLeak(error);
          break;
        }
        await this.#sleep(backoffMs(failures++));
      }
    }
    pool.dropEntry(entry, 0);
  }

  /** Empties the entry when it has passed the page. */
  async #loadAndPass(entry: Uint32Array, rest: Rest): Promise<void> {
    const { pool, source } = this.#options;
    await pool.reading.enter();
    const session = new PageSession(pool, source);
    try {
      const loading = session.load(missingAt(entry, 0, rest.level));
      if (loading !== true) await loading;
      if (!rest.cut.cancelled) this.#pass(entry, rest);
    } finally {
      session.end();
      pool.reading.leave();
    }
  }

  /** Reports one page and its clusters or queues its children; false when it must be loaded. */
  #pass(entry: Uint32Array, rest: Rest): boolean {
    const { pool, onRelease } = this.#options;
    const { since } = rest.cut;
    pool.begin();
    const frame = pool.find(entry, 0, -1);
    if (frame < 0) return false;
    const page = pool.words(frame);
    if (rest.level === 0) {
      for (let at = 0; at < pageWords; at += entryWords) {
        const writer = page[at + 1] ?? 0;
        const low = page[at] ?? 0;
        if (writer !== 0) onRelease(objectIdOf(writer, low), indexOf(low), since);
      }
    } else {
      const words = new Uint32Array(pageWords);
      for (let at = 0; at < pageWords; at += entryWords) {
        pool.settleEntry(page, at, frame);
        pool.copyEntry(page, at, words, at);
      }
      this.#rests.push({ words, at: 0, level: rest.level - 1, cut: rest.cut });
    }
    const writer = entry[1] ?? 0;
    const low = entry[0] ?? 0;
    if (writer === dirtyWriter) pool.dirty.since[low] = since;
    else onRelease(objectIdOf(writer, low), indexOf(low), since);
    pool.dropEntry(entry, 0);
    return true;
  }

  #drop(rest: Rest): void {
    for (let at = rest.at; at < rest.words.length; at += entryWords) {
      this.#options.pool.dropEntry(rest.words, at);
    }
  }

  /** Ends early, without an error, when the releaser is closed: the walk then finds its cut cancelled. */
  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#abort;
    try {
      await this.#options.clock.sleep(ms, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
}
