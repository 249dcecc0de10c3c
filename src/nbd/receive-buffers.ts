/**
 * Memory that a connection receives into, so that payloads reach the device without a copy. A PayloadOwner
 * stands for the memory behind a payload: it is retained for each write that is under way and released
 * when the write is done; only then is the memory used again.
 */

import { SlabArena } from '../base/buffer-arena.ts';
import { BufferPool } from '../base/buffer-pool.ts';

export interface PayloadOwner {
  retain(): void;
  release(): void;
}

/** Memory that nobody uses again: the garbage collector frees it. */
export const unpooled: PayloadOwner = { retain: () => undefined, release: () => undefined };

const kibi = 1024;
const arenaBytes = 512 * kibi;
/** 64 MiB; more than one, so that an unparsed rest never waits for itself. */
const maxArenasInUse = 128;
/** With less room than this left, receiving goes on in another arena: system calls should move much. */
const minRoomBytes = 128 * kibi;
/** So much of a payload must be missing for it to be received straight into its own buffer. */
export const minDirectBytes = 64 * kibi;

/** How many arenas of a connection are in use: retained by somebody. */
interface ArenaCount {
  inUse: number;
}

class Arena implements PayloadOwner {
  readonly bytes = Buffer.allocUnsafeSlow(arenaBytes);
  readonly #count: ArenaCount;
  usedBytes = 0;
  users = 0;

  constructor(count: ArenaCount) {
    this.#count = count;
  }

  retain(): void {
    if (this.users === 0) this.#count.inUse += 1;
    this.users += 1;
  }

  release(): void {
    this.users -= 1;
    if (this.users === 0) this.#count.inUse -= 1;
  }
}

/** One connection's receive buffers. */
export class ReceiveBuffers {
  readonly #count: ArenaCount = { inUse: 0 };
  readonly #spares: Arena[] = [];
  #arena = new Arena(this.#count);

  /** Owner of what was received last. */
  get owner(): PayloadOwner {
    return this.#arena;
  }

  /**
   * True while unanswered writes keep so much memory from being used again that nothing more should be
   * received. A few small writes can do that, each in an arena of its own.
   */
  get exhausted(): boolean {
    return this.#count.inUse >= maxArenasInUse;
  }

  /** Where the next bytes go; asked again after each receipt. */
  next(): Buffer {
    if (this.#arena.users === 0) this.#arena.usedBytes = 0;
    if (arenaBytes - this.#arena.usedBytes < minRoomBytes) {
      const free = this.#spares.findIndex((arena) => arena.users === 0);
      this.#spares.push(this.#arena);
      const [arena] = free === -1 ? [] : this.#spares.splice(free, 1);
      this.#arena = arena ?? new Arena(this.#count);
      this.#arena.usedBytes = 0;
      this.#dropSpares();
    }
    return this.#arena.bytes.subarray(this.#arena.usedBytes);
  }

  /** Told how many bytes came into what the last `next()` returned. */
  received(count: number): void {
    this.#arena.usedBytes += count;
  }

  /** One free arena is enough to go on with; those in use are freed by the garbage collector when done. */
  #dropSpares(): void {
    let free = 0;
    for (let index = this.#spares.length - 1; index >= 0; index--) {
      if (this.#spares[index]?.users !== 0) continue;
      free += 1;
      if (free > 1) this.#spares.splice(index, 1);
    }
  }
}

/** Buffers for payloads that span chunks, on loan from one pool for all connections. */
export class PayloadPool {
  readonly #pool: BufferPool;

  constructor(maxBytes: number) {
    this.#pool = new BufferPool({ arena: new SlabArena({ bytesMax: maxBytes }) });
  }

  /** Buffers that are being received into or written from. */
  get takenCount(): number {
    return this.#pool.statistics.leaseCount;
  }

  /** The taker is the first who retains it, and releases it when the buffer has gone to whom it is for. */
  take(length: number): { bytes: Buffer; owner: PayloadOwner } {
    const lease = this.#pool.alloc(length);
    let users = 1;
    const retain = (): void => {
      users += 1;
    };
    const release = (): void => {
      users -= 1;
      if (users > 0) return;
      lease.end();
      lease.free();
    };
    return { bytes: lease.begin(), owner: { retain, release } };
  }
}
