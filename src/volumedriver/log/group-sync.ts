/**
 * Group commit: many callers share one sync, and a sync that began before a call never answers it. At most one runs at
 * a time, with at most one more waiting behind it.
 */
export class GroupSync {
  readonly #sync: () => Promise<void>;
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(sync: () => Promise<void>) {
    this.#sync = sync;
  }

  get busy(): boolean {
    return this.#running !== null;
  }

  /** Resolves after a sync that began no earlier than this call. */
  run(): Promise<void> {
    if (this.#running === null) return this.#start();
    this.#next ??= this.#running.then(
      () => this.#startNext(),
      () => this.#startNext(),
    );
    return this.#next;
  }

  #startNext(): Promise<void> {
    this.#next = null;
    return this.#start();
  }

  #start(): Promise<void> {
    const done = this.#sync().finally(() => {
      if (this.#running === done) this.#running = null;
    });
    this.#running = done;
    return done;
  }
}
