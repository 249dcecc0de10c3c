/**
 * Applies a map's operations strictly in order. Those whose pages are missing wait here, so that a write never waits
 * for a map page; their pages are loaded ahead, several at once.
 *
 * Only the first operations of the queue hold a place of the pool's `applying` turnstile, in queue order: whoever
 * holds one has a first operation that holds one too, so nobody waits for a place in a circle. A queue that backs off
 * from a page that can't be had holds none, so that it does not hold up the other volumes.
 */
import type { Clock } from '../../base/clock.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { backoffMs } from './backoff.ts';
import type { PagePool } from './page-pool.ts';
import { PageSession, type MissingPage } from './page-session.ts';
import type { PageSource } from './page.ts';

export interface QueuedOperation {
  /** Its share of the queue's bound. */
  readonly clusters: number;
  /** Called when it can't be applied at once; `number` grows in call order, from 1. */
  queued?(number: number): void;
  /** Applies it whole, or names a missing page; then it is called again. */
  apply(): MissingPage | undefined;
  /** The next page that apply() would miss, if that can be told. */
  missing?(): MissingPage | undefined;
  /** It will never be applied. */
  fail?(error: VolumeError): void;
}

export interface UpdateQueueOptions {
  readonly pool: PagePool;
  readonly source: PageSource;
  readonly clock: Clock;
  readonly clustersMax: number;
  readonly onFailure: (error: VolumeError) => void;
}

interface Entry {
  readonly operation: QueuedOperation;
  session?: PageSession;
  ahead?: Promise<void>;
}

/** Operations applied without letting others run. */
const operationsPerTurn = 512;

export class UpdateQueue {
  readonly #options: UpdateQueueOptions;
  readonly #abort = new AbortController();
  #entries: Entry[] = [];
  /** Entries before this one have been applied. */
  #first = 0;
  /** Entries before this one have a session, if they need one. */
  #window = 0;
  #clusters = 0;
  #failed: VolumeError | null = null;
  #closed = false;
  #running = false;
  /** Waits to try again. */
  #backingOff = false;
  #numbers = 0;
  #drained: PromiseWithResolvers<void> | undefined;
  #eased: PromiseWithResolvers<void> | undefined;

  constructor(options: UpdateQueueOptions) {
    this.#options = options;
  }

  get failed(): VolumeError | null {
    return this.#failed;
  }

  get isEmpty(): boolean {
    return this.#first === this.#entries.length;
  }

  /** Applies an operation at once if none is queued and its pages are there or come at once; else queues it. */
  submit(operation: QueuedOperation): void {
    const entry: Entry = { operation };
    if (this.isEmpty && this.#applyNow(entry)) return;
    operation.queued?.(++this.#numbers);
    this.#entries.push(entry);
    this.#clusters += operation.clusters;
    this.#loadAhead();
    if (!this.#running) void this.#run();
  }

  pressure(): Promise<void> | undefined {
    if (this.#clusters <= this.#options.clustersMax || this.#failed !== null) return undefined;
    this.#eased ??= Promise.withResolvers();
    return this.#eased.promise;
  }

  /** Rejects when the queue has failed, or is closed before it is empty. */
  drained(): Promise<void> {
    if (this.#failed !== null) return Promise.reject(this.#failed);
    if (this.isEmpty) return Promise.resolve();
    this.#drained ??= Promise.withResolvers();
    return this.#drained.promise;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#abort.abort();
    const why = new VolumeError('SHUTTING_DOWN', 'updating the map: it was closed');
    if (this.#failed === null) this.#giveUp(why);
  }

  /** False when something must be waited for; the queue then also deals with what failed. */
  #applyNow(entry: Entry): boolean {
    const { pool, source } = this.#options;
    const { operation } = entry;
    try {
      for (let missing = operation.apply(); missing !== undefined; missing = operation.apply()) {
        if (entry.session === undefined) {
          if (!pool.applying.tryEnter()) return false;
          entry.session = new PageSession(pool, source);
        }
        const loading = entry.session.load(missing);
        if (loading === true) continue;
        entry.ahead = loadAll(entry.session, loading, operation.missing?.bind(operation));
        return false;
      }
      this.#end(entry);
      return true;
    } catch (error) {
      if (!(error instanceof VolumeError)) throw error;
      return false;
    }
  }

  async #run(): Promise<void> {
    this.#running = true;
    // Operations of the same turn are queued first, so that their loads start together.
    await Promise.resolve();
    let failures = 0;
    for (let applied = 0; this.#failed === null;) {
      const entry = this.#entries[this.#first];
      if (entry === undefined) break;
      try {
        if (await this.#apply(entry)) {
          failures = 0;
          this.#advance(entry);
          if (++applied % operationsPerTurn === 0) await this.#sleep(0);
        }
      } catch (error) {
        if (!(error instanceof VolumeError)) throw error;
        if (error.code === 'CORRUPT') this.#fail(error);
        else await this.#backOff(backoffMs(failures++));
      }
    }
    this.#running = false;
    if (this.#failed !== null) return;
    this.#drained?.resolve();
    this.#drained = undefined;
  }

  /** True when applied, else after a step of loading. */
  async #apply(entry: Entry): Promise<boolean> {
    const { pool, source } = this.#options;
    let missing = entry.operation.apply();
    if (missing === undefined) return true;
    if (entry.ahead !== undefined) {
      await entry.ahead;
      delete entry.ahead;
      if (this.#failed !== null) return false;
      missing = entry.operation.apply();
      if (missing === undefined) return true;
    }
    if (entry.session === undefined) {
      await pool.applying.enter();
      entry.session = new PageSession(pool, source);
      this.#window = Math.max(this.#window, this.#first + 1);
      if (this.#failed !== null) this.#end(entry);
      return false;
    }
    const loading = entry.session.load(missing);
    if (loading !== true) await loading;
    return false;
  }

  #advance(entry: Entry): void {
    this.#end(entry);
    this.#clusters -= entry.operation.clusters;
    this.#first++;
    this.#window = Math.max(this.#window, this.#first);
    if (this.#first > 1024 && this.#first * 2 > this.#entries.length) {
      this.#entries.splice(0, this.#first);
      this.#window -= this.#first;
      this.#first = 0;
    }
    if (this.#clusters <= this.#options.clustersMax / 2) {
      this.#eased?.resolve();
      this.#eased = undefined;
    }
    this.#loadAhead();
  }

  /** Gives sessions to the next operations, as far as there are places. */
  #loadAhead(): void {
    if (this.#backingOff) return;
    const { pool, source } = this.#options;
    for (; this.#window < this.#entries.length; this.#window++) {
      const entry = this.#entries[this.#window];
      const missing = entry?.operation.missing?.bind(entry.operation);
      if (entry === undefined || missing === undefined || entry.session !== undefined) continue;
      if (!pool.applying.tryEnter()) return;
      entry.session = new PageSession(pool, source);
      entry.ahead = loadAll(entry.session, Promise.resolve(), missing);
    }
  }

  async #backOff(ms: number): Promise<void> {
    for (const entry of this.#entries.slice(this.#first, this.#window)) {
      this.#end(entry);
      delete entry.ahead;
    }
    this.#window = this.#first;
    this.#backingOff = true;
    await this.#sleep(ms);
    this.#backingOff = false;
  }

  #end(entry: Entry): void {
    if (entry.session === undefined) return;
    entry.session.end();
    delete entry.session;
    this.#options.pool.applying.leave();
  }

  #fail(error: VolumeError): void {
    this.#giveUp(error);
    this.#options.onFailure(error);
  }

  #giveUp(error: VolumeError): void {
    this.#failed = error;
    const entries = this.#entries.slice(this.#first);
    this.#entries = [];
    this.#first = 0;
    this.#window = 0;
    this.#clusters = 0;
    for (const entry of entries) {
      this.#end(entry);
      entry.operation.fail?.(error);
    }
    this.#eased?.resolve();
    this.#eased = undefined;
    // Nobody may be waiting for it any more.
    this.#drained?.promise.catch(() => undefined);
    this.#drained?.reject(error);
    this.#drained = undefined;
  }

  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#abort;
    try {
      await this.#options.clock.sleep(ms, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
}

/** Loads what an operation will need. Failures are left to be met, and treated, when it is applied. */
async function loadAll(
  session: PageSession,
  first: Promise<void>,
  next: (() => MissingPage | undefined) | undefined,
): Promise<void> {
  try {
    await first;
    for (;;) {
      const missing = session.ended ? undefined : next?.();
      if (missing === undefined) return;
      const loading = session.load(missing);
      if (loading !== true) await loading;
    }
  } catch (error) {
    if (!(error instanceof VolumeError)) throw error;
  }
}
