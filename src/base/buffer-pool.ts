/**
 * Buffers on loan, with the lifetime rules of cpg_zcb_alloc(3): a lease belongs to the pool that gave it, nobody
 * touches it while an operation is using it, its owner may use it again afterwards, and closing the pool frees all
 * that is left. As in ovs_allocate (libovsvolumedriver(7)) its contents are undefined at first. Before the payload
 * lies room for a header, so that both leave in one piece.
 *
 * The rules are the same wherever the memory comes from: from an arena that is shared and reused, or from the heap,
 * when there is no arena or it is exhausted. This layer knows no VolumeError: breaking a rule is a LeaseError.
 *
 *    owned ──begin──▶ in-flight ──end──▶ owned ──free──▶ freed
 *
 * Memory of a pool that is closed while an operation runs goes back to the arena when that operation ends, never
 * before. A Buffer that was taken by data() can't be revoked: whoever keeps one breaks the rules unnoticed.
 */
import { assert } from './assert.ts';
import { heapMemory, type Arena, type Block } from './buffer-arena.ts';

export const leaseStates = ['owned', 'in-flight', 'freed'] as const;
export type LeaseState = (typeof leaseStates)[number];

/** What was done against the rules, with the errno that fits it. */
export const leaseFailures = {
  /** The lease was touched, freed or begun while an operation uses it. */
  'in-flight': 'EBUSY',
  /** The lease was used or freed after it was freed. */
  freed: 'EINVAL',
  /** The lease belongs to another pool. */
  foreign: 'EFAULT',
  closed: 'EBADF',
  'bad-size': 'EINVAL',
} as const;
export type LeaseFailure = keyof typeof leaseFailures;

export class LeaseError extends Error {
  override readonly name = 'LeaseError';
  readonly failure: LeaseFailure;

  constructor(failure: LeaseFailure, message: string) {
    super(message);
    this.failure = failure;
  }

  get errno(): string {
    return leaseFailures[this.failure];
  }
}

export interface Lease {
  readonly sizeBytes: number;
  readonly state: LeaseState;
  /** The payload. LeaseError unless owned. */
  data(): Buffer;
  /**
   * Hands the lease to an operation: the last `headerBytes` of the room before the payload, and the payload, as one
   * buffer. Until end() the lease can't be touched.
   */
  begin(headerBytes?: number): Buffer;
  /** The operation is over, well or not. */
  end(): void;
  free(): void;
}

export interface BufferPoolOptions {
  /** Where memory comes from; the heap unless given. */
  readonly arena?: Arena;
  /** Room before each payload. */
  readonly headroomBytes?: number;
  readonly sizeBytesMax?: number;
}

export interface BufferPoolStatistics {
  readonly leaseCount: number;
  /** Leases that the arena had no room for, since the pool was made. */
  readonly fallbackCount: number;
}

const headroomBytesDefault = 64;
const sizeBytesMaxDefault = 64 * 1024 * 1024;

export class BufferPool {
  readonly #arena: Arena;
  readonly #headroomBytes: number;
  readonly #sizeBytesMax: number;
  readonly #leases = new Set<PoolLease>();
  #fallbackCount = 0;
  #closed = false;

  constructor(options: BufferPoolOptions = {}) {
    this.#arena = options.arena ?? heapMemory;
    this.#headroomBytes = options.headroomBytes ?? headroomBytesDefault;
    this.#sizeBytesMax = options.sizeBytesMax ?? sizeBytesMaxDefault;
  }

  get statistics(): BufferPoolStatistics {
    return { leaseCount: this.#leases.size, fallbackCount: this.#fallbackCount };
  }

  /** Always succeeds for a size within the bounds; contents are undefined. */
  alloc(sizeBytes: number): Lease {
    if (this.#closed) throw new LeaseError('closed', 'allocate a buffer: the pool is closed');
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > this.#sizeBytesMax) {
      throw new LeaseError(
        'bad-size',
        `allocate a buffer: ${sizeBytes} is no size from 0 to ${this.#sizeBytesMax}`,
      );
    }
    const totalBytes = this.#headroomBytes + sizeBytes;
    let block = this.#arena.take(totalBytes);
    if (block === undefined) {
      this.#fallbackCount++;
      block = heapMemory.take(totalBytes);
    }
    const lease = new PoolLease(block, this.#headroomBytes, sizeBytes, () => {
      this.#leases.delete(lease);
    });
    this.#leases.add(lease);
    return lease;
  }

  /** As lease.free(), for a lease of this pool only. */
  free(lease: Lease): void {
    if (lease instanceof PoolLease && this.#leases.has(lease)) {
      lease.free();
      return;
    }
    if (lease.state === 'freed')
      throw new LeaseError('freed', 'free a buffer: it was freed before');
    throw new LeaseError('foreign', 'free a buffer: it belongs to another pool');
  }

  /** Frees every lease, also those that were forgotten. Can be repeated. */
  close(): void {
    this.#closed = true;
    for (const lease of [...this.#leases]) lease.revoke();
  }
}

class PoolLease implements Lease {
  readonly sizeBytes: number;
  readonly #headroomBytes: number;
  readonly #freed: () => void;
  #block: Block | undefined;
  #inFlight = false;
  #revoked = false;

  constructor(block: Block, headroomBytes: number, sizeBytes: number, freed: () => void) {
    this.#block = block;
    this.#headroomBytes = headroomBytes;
    this.sizeBytes = sizeBytes;
    this.#freed = freed;
  }

  get state(): LeaseState {
    if (this.#block === undefined || this.#revoked) return 'freed';
    return this.#inFlight ? 'in-flight' : 'owned';
  }

  data(): Buffer {
    return this.#view(this.#owned('touch'), 0);
  }

  begin(headerBytes = 0): Buffer {
    const block = this.#owned('send');
    if (
      !Number.isSafeInteger(headerBytes) ||
      headerBytes < 0 ||
      headerBytes > this.#headroomBytes
    ) {
      throw new LeaseError(
        'bad-size',
        `send a buffer: no room for a header of ${headerBytes} bytes, only for ${this.#headroomBytes}`,
      );
    }
    this.#inFlight = true;
    return this.#view(block, headerBytes);
  }

  end(): void {
    assert(this.#inFlight, 'only what has begun can end');
    this.#inFlight = false;
    if (this.#revoked) this.#release();
  }

  free(): void {
    this.#owned('free');
    this.#release();
  }

  /** Frees the lease for its owner at once, and its memory as soon as no operation uses it. */
  revoke(): void {
    this.#revoked = true;
    if (this.#inFlight) this.#freed();
    else this.#release();
  }

  #owned(operation: string): Block {
    const block = this.#block;
    if (block === undefined || this.#revoked) {
      throw new LeaseError('freed', `${operation} a buffer: it was freed before`);
    }
    if (this.#inFlight) {
      throw new LeaseError('in-flight', `${operation} a buffer: an operation is using it`);
    }
    return block;
  }

  #view(block: Block, headerBytes: number): Buffer {
    return block.memory.subarray(
      this.#headroomBytes - headerBytes,
      this.#headroomBytes + this.sizeBytes,
    );
  }

  #release(): void {
    const block = this.#block;
    assert(block !== undefined, 'memory is released once');
    this.#block = undefined;
    this.#freed();
    block.release();
  }
}

/** Runs an operation on a lease, in flight from the call until the operation has ended. */
export async function transfer<T>(
  lease: Lease,
  headerBytes: number,
  operation: (frame: Buffer) => Promise<T>,
): Promise<T> {
  const frame = lease.begin(headerBytes);
  try {
    return await operation(frame);
  } finally {
    lease.end();
  }
}
