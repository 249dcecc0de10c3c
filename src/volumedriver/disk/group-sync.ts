/**
 * Shares one costly sync among all who wait for it. Invariants: never two at once; a sync that was already running
 * when somebody asked does not count for them, since it may have passed over what they wrote; everybody who asks
 * while one runs shares the next.
 */
export class GroupSync {
  readonly #run: () => Promise<void>;
  #running = false;
  #next: PromiseWithResolvers<void> | undefined;

  /** `run` must cover everything that was written before it is called, and reports failure by its promise alone. */
  constructor(run: () => Promise<void>) {
    this.#run = run;
  }

  get idle(): boolean {
    return !this.#running;
  }

  /** Resolves when a run that began after this call has succeeded; rejects with that run's error. */
  sync(): Promise<void> {
    if (this.#running) {
      this.#next ??= Promise.withResolvers();
      return this.#next.promise;
    }
    const waiters: PromiseWithResolvers<void> = Promise.withResolvers();
    this.#start(waiters);
    return waiters.promise;
  }

  #start(waiters: PromiseWithResolvers<void>): void {
    this.#running = true;
    this.#run().then(
      () => {
        this.#end();
        waiters.resolve();
      },
      (error: unknown) => {
        this.#end();
        waiters.reject(error);
      },
    );
  }

  #end(): void {
    const next = this.#next;
    this.#next = undefined;
    if (next === undefined) this.#running = false;
    else this.#start(next);
  }
}
