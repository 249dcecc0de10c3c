/**
 * A series of page loads on behalf of one operation: what it has loaded stays pinned until the operation is through,
 * so that it can't lose one page of its path while it waits for the next. Loads of one page are shared.
 */
import { assert } from '../../base/assert.ts';
import { VolumeError, toVolumeError } from '../../volumes/errors.ts';
import { pageEntries } from '../format/constants.ts';
import { clusterChecksum } from '../format/checksum.ts';
import { formatObjectId, indexOf, objectIdOf } from '../format/location.ts';
import { bytesOf, type PagePool } from './page-pool.ts';
import { dirtyWriter, entryWords, pageWords, type PageSource } from './page.ts';

/** Which persisted page an operation lacks. */
export interface MissingPage {
  readonly low: number;
  readonly writer: number;
  readonly check: number;
  readonly level: number;
}

/** A load under way; its promise gives the frame, pinned once for each of `waiters`. */
export interface SharedLoad {
  waiters: number;
  promise: Promise<number>;
}

export class PageSession {
  readonly #pool: PagePool;
  readonly #source: PageSource;
  readonly #pinned: number[] = [];
  #ended = false;

  get ended(): boolean {
    return this.#ended;
  }

  constructor(pool: PagePool, source: PageSource) {
    this.#pool = pool;
    this.#source = source;
  }

  /**
   * Makes the page resident and pins it: true when it is so on return. Throws or rejects with a VolumeError: CORRUPT
   * when the page is not what the reference says, else what the source or the spill file said.
   */
  load(page: MissingPage): true | Promise<void> {
    assert(!this.#ended, 'an ended session loads nothing');
    const resident = this.#pool.findClean(page.low, page.writer);
    if (resident >= 0) {
      if (this.#pool.checkOf(resident) !== page.check)
        throw damaged(page, 'another checksum is due');
      this.#pool.pin(resident);
      this.#pinned.push(resident);
      return true;
    }
    const key = `${page.writer}:${page.low}`;
    let shared = this.#pool.loads.get(key);
    if (shared === undefined) {
      const started = this.#start(page, key);
      if (typeof started === 'number') {
        this.#pool.pin(started);
        this.#pinned.push(started);
        return true;
      }
      shared = started;
    }
    shared.waiters++;
    return shared.promise.then((frame) => {
      if (this.#ended) {
        this.#pool.unpin(frame);
        return;
      }
      this.#pinned.push(frame);
      if (this.#pool.checkOf(frame) !== page.check) throw damaged(page, 'another checksum is due');
    });
  }

  /** Lets the pages go that were loaded so far. */
  unpin(): void {
    for (const frame of this.#pinned) this.#pool.unpin(frame);
    this.#pinned.length = 0;
  }

  end(): void {
    this.#ended = true;
    this.unpin();
  }

  #start(page: MissingPage, key: string): number | SharedLoad {
    const pool = this.#pool;
    const frame = pool.frameForLoad();
    const into = bytesOf(pool.words(frame));
    let answer: true | Promise<void>;
    try {
      answer = this.#source.read(objectIdOf(page.writer, page.low), indexOf(page.low), into);
      if (answer === true) {
        this.#accept(page, frame);
        return frame;
      }
    } catch (error) {
      pool.abandoned(frame);
      throw toVolumeError(error, `reading map page ${nameOf(page)}`);
    }
    const load: SharedLoad = { waiters: 0, promise: this.#finish(page, key, frame, answer) };
    pool.loads.set(key, load);
    return load;
  }

  async #finish(
    page: MissingPage,
    key: string,
    frame: number,
    answer: Promise<void>,
  ): Promise<number> {
    try {
      await answer;
      this.#accept(page, frame);
    } catch (error) {
      this.#pool.loads.delete(key);
      this.#pool.abandoned(frame);
      throw toVolumeError(error, `reading map page ${nameOf(page)}`);
    }
    const waiters = this.#pool.loads.get(key)?.waiters ?? 0;
    this.#pool.loads.delete(key);
    for (let n = 0; n < waiters; n++) this.#pool.pin(frame);
    return frame;
  }

  /** Verifies the loaded page and makes it a clean one. */
  #accept(page: MissingPage, frame: number): void {
    const words = this.#pool.words(frame);
    const objectId = objectIdOf(page.writer, page.low);
    if (clusterChecksum(bytesOf(words), objectId, indexOf(page.low)) !== page.check) {
      throw damaged(page, 'its checksum does not match');
    }
    if (page.level > 0) {
      for (let at = 0; at < pageWords; at += entryWords) {
        if (words[at + 1] === dirtyWriter) {
          throw damaged(page, `entry ${at / entryWords} of ${pageEntries} has a reserved writer`);
        }
      }
    }
    this.#pool.loaded(frame, page.low, page.writer, page.check);
  }
}

function nameOf(page: MissingPage): string {
  return `${formatObjectId(objectIdOf(page.writer, page.low))}/${indexOf(page.low)}`;
}

function damaged(page: MissingPage, why: string): VolumeError {
  return new VolumeError('CORRUPT', `reading map page ${nameOf(page)}: ${why}`);
}
