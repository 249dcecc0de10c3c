/**
 * The appender that writes off the thread, one write at a time, each taking all that was admitted meanwhile. For
 * files whose writes may stall (a cold or throttled disk) and whose users wait anyway.
 */
import { assert } from '../../base/assert.ts';
import { hasCode, type VolumeError } from '../../volumes/errors.ts';
import type { DiskFile } from '../disk/disk.ts';
import { GroupSync } from '../disk/group-sync.ts';
import {
  destroyedError,
  haltedError,
  totalBytes,
  type Appender,
  type AppenderOptions,
} from './appender.ts';
import { SyncAppender } from './sync-appender.ts';

type WriteOffThread = (buffers: readonly Uint8Array[], position: number) => Promise<void>;

interface Request {
  readonly buffers: readonly Uint8Array[];
  readonly lengthBytes: number;
  /** Counts append calls from 1. */
  readonly sequence: number;
}

interface BlockedRequest extends Request {
  readonly admitted: PromiseWithResolvers<number>;
}

interface FlushWaiter {
  readonly sequence: number;
  readonly done: PromiseWithResolvers<void>;
}

const bytesInFlightMaxDefault = 1024 * 1024;
const requestsInFlightMaxDefault = 256;

/** Always succeeds: where the disk can't write off the thread, the appender writes at once. */
export function createAppender(file: DiskFile, options: AppenderOptions): Appender {
  const write = file.writeOffThread?.bind(file);
  if (write === undefined) return new SyncAppender(file, options);
  return new AsyncAppender(file, write, options);
}

export class AsyncAppender implements Appender {
  readonly #file: DiskFile;
  readonly #write: WriteOffThread;
  readonly #bytesInFlightMax: number;
  readonly #requestsInFlightMax: number;
  readonly #group: GroupSync;
  /** Up to here everything is with the operating system. */
  #writtenPosition: number;
  #position: number;
  #durablePosition: number;
  #bytesInFlight = 0;
  #requestsInFlight = 0;
  #writtenSequence = 0;
  #lastSequence = 0;
  #writing = false;
  #queue: Request[] = [];
  #blocked: BlockedRequest[] = [];
  #flushWaiters: FlushWaiter[] = [];
  #failure: VolumeError | undefined;
  /** Set while no space was found and resume() was not called. */
  #full: VolumeError | undefined;
  #destroyed: Promise<void> | undefined;

  constructor(file: DiskFile, write: WriteOffThread, options: AppenderOptions) {
    this.#file = file;
    this.#write = write;
    this.#bytesInFlightMax = options.bytesInFlightMax ?? bytesInFlightMaxDefault;
    this.#requestsInFlightMax = options.requestsInFlightMax ?? requestsInFlightMaxDefault;
    this.#position = options.position;
    this.#writtenPosition = options.position;
    this.#durablePosition = options.position;
    this.#group = new GroupSync(() => this.#syncFile());
  }

  get position(): number {
    return this.#position;
  }

  get durablePosition(): number {
    return this.#durablePosition;
  }

  append(buffers: readonly Uint8Array[]): number | Promise<number> {
    this.#check();
    const request = {
      buffers,
      lengthBytes: totalBytes(buffers),
      sequence: ++this.#lastSequence,
    };
    if (this.#blocked.length === 0 && this.#fits(request)) return this.#admit(request);
    const admitted = Promise.withResolvers<number>();
    this.#blocked.push({ ...request, admitted });
    return admitted.promise;
  }

  async flush(): Promise<void> {
    this.#check();
    await this.#flushed();
  }

  async sync(): Promise<void> {
    this.#check();
    await this.#group.sync();
  }

  resume(): number {
    this.#checkFailure();
    assert(this.#full !== undefined || this.#requestsInFlight === 0, 'nothing is in flight');
    this.#full = undefined;
    this.#position = this.#writtenPosition;
    return this.#position;
  }

  destroy(): Promise<void> {
    this.#destroyed ??= this.#flushed();
    return this.#destroyed;
  }

  async #flushed(): Promise<void> {
    this.#checkFailure();
    if (this.#full !== undefined) throw this.#full;
    if (this.#writtenSequence === this.#lastSequence) return;
    const done: PromiseWithResolvers<void> = Promise.withResolvers();
    this.#flushWaiters.push({ sequence: this.#lastSequence, done });
    await done.promise;
  }

  #fits(request: Request): boolean {
    if (this.#requestsInFlight === 0) return true;
    return (
      this.#requestsInFlight < this.#requestsInFlightMax &&
      this.#bytesInFlight + request.lengthBytes <= this.#bytesInFlightMax
    );
  }

  #admit(request: Request): number {
    const position = this.#position;
    this.#position += request.lengthBytes;
    this.#bytesInFlight += request.lengthBytes;
    this.#requestsInFlight++;
    this.#queue.push(request);
    if (!this.#writing) this.#startWrite();
    return position;
  }

  #startWrite(): void {
    const batch = this.#queue;
    this.#queue = [];
    this.#writing = true;
    const buffers = batch.flatMap((request) => request.buffers);
    this.#write(buffers, this.#writtenPosition).then(
      () => {
        this.#endWrite(batch);
      },
      (error: unknown) => {
        this.#endFailedWrite(error);
      },
    );
  }

  #endWrite(batch: readonly Request[]): void {
    if (this.#failure !== undefined) return; // a sync has failed meanwhile, and everybody was told
    for (const { lengthBytes, sequence } of batch) {
      this.#writtenPosition += lengthBytes;
      this.#writtenSequence = sequence;
      this.#bytesInFlight -= lengthBytes;
      this.#requestsInFlight--;
    }
    this.#admitBlocked();
    this.#writing = false;
    if (this.#queue.length > 0) this.#startWrite();
    while ((this.#flushWaiters[0]?.sequence ?? Infinity) <= this.#writtenSequence) {
      this.#flushWaiters.shift()?.done.resolve();
    }
  }

  #admitBlocked(): void {
    for (;;) {
      const next = this.#blocked[0];
      if (next === undefined || !this.#fits(next)) return;
      this.#blocked.shift();
      next.admitted.resolve(this.#admit(next));
    }
  }

  #endFailedWrite(error: unknown): void {
    this.#writing = false;
    if (hasCode(error, 'OUT_OF_SPACE') && this.#failure === undefined) {
      this.#full = error as VolumeError;
      this.#refuseAll(this.#full);
    } else {
      this.#fail(error);
    }
  }

  async #syncFile(): Promise<void> {
    await this.#flushed();
    const mark = this.#writtenPosition;
    try {
      await this.#file.sync();
    } catch (error) {
      throw this.#fail(error);
    }
    this.#durablePosition = mark;
  }

  #fail(cause: unknown): VolumeError {
    if (this.#failure === undefined) {
      this.#failure = haltedError(this.#file, cause);
      this.#refuseAll(this.#failure);
    }
    return this.#failure;
  }

  /** Tells all who wait, and drops what was not written. */
  #refuseAll(error: VolumeError): void {
    const waiters = this.#flushWaiters.splice(0);
    const blocked = this.#blocked.splice(0);
    this.#queue = [];
    this.#bytesInFlight = 0;
    this.#requestsInFlight = 0;
    this.#writtenSequence = this.#lastSequence;
    for (const { done } of waiters) done.reject(error);
    for (const { admitted } of blocked) admitted.reject(error);
  }

  #checkFailure(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #check(): void {
    this.#checkFailure();
    if (this.#full !== undefined) throw this.#full;
    if (this.#destroyed !== undefined) throw destroyedError(this.#file);
  }
}
