/** One at a time, in the order of the calls. */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve();

  async run<Result>(action: () => Promise<Result>): Promise<Result> {
    const turn = this.#last.then(action, action);
    this.#last = turn.catch(() => undefined);
    return await turn;
  }
}
