/**
 * Jest's Node environment, which also fails a test file that leaves something open: a server, a socket, a child
 * process or a worker that would keep the process alive. Timers are not looked at: jest has its own.
 */
import type { Worker } from 'node:worker_threads';
import type { Circus } from '@jest/types';
import { TestEnvironment } from 'jest-environment-node';

/** Names as process.getActiveResourcesInfo() gives them. */
const watched = new Set([
  'FSEventWrap',
  'PipeServerWrap',
  'PipeWrap',
  'ProcessWrap',
  'StatWatcher',
  'TCPServerWrap',
  'TCPSocketWrap',
  'TLSWrap',
  'UDPWrap',
]);
/** How long what is being closed may take to go. */
const graceMs = 3000;

export default class LeakCheckingEnvironment extends TestEnvironment {
  readonly #workers = new Set<Worker>();
  readonly #onWorker = (worker: Worker): void => {
    this.#workers.add(worker);
    worker.once('exit', () => this.#workers.delete(worker));
  };
  #openBefore = new Map<string, number>();

  override async setup(): Promise<void> {
    await super.setup();
    this.#openBefore = openResources();
    process.on('worker', this.#onWorker);
  }

  override async teardown(): Promise<void> {
    process.off('worker', this.#onWorker);
    await super.teardown();
  }

  /** run_finish comes after the last hook of the file; an error noted then fails the file, not its tests. */
  readonly handleTestEvent = async (event: Circus.Event, state: Circus.State): Promise<void> => {
    if (event.name !== 'run_finish') return;
    const left = await this.#leftOpen();
    if (left.length === 0) return;
    const error = new Error(`the tests of this file left open: ${left.join(', ')}`);
    error.stack = error.message;
    state.unhandledErrors.push(error);
  };

  async #leftOpen(): Promise<string[]> {
    const deadline = performance.now() + graceMs;
    for (;;) {
      const left = this.#openNow();
      if (left.length === 0 || performance.now() > deadline) return left;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  #openNow(): string[] {
    const left = [...openResources()].flatMap(([type, count]) => {
      const more = count - (this.#openBefore.get(type) ?? 0);
      return more > 0 ? [`${more} ${type}`] : [];
    });
    return this.#workers.size > 0 ? [...left, `${this.#workers.size} Worker`] : left;
  }
}

function openResources(): Map<string, number> {
  const counts = new Map<string, number>();
  for (const type of process.getActiveResourcesInfo()) {
    if (watched.has(type)) counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  return counts;
}
