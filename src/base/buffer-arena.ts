/**
 * Where the memory of buffers on loan comes from. A SlabArena keeps a bounded amount and gives it out again and
 * again, in blocks of a few sizes cut from slabs, so that the data path makes no garbage. The heap always has some.
 */
import { assert } from './assert.ts';

export interface Block {
  /** At least as long as asked for. Contents undefined. */
  readonly memory: Buffer;
  /** To be called once, when nobody uses the memory any more. */
  release(): void;
}

export interface Arena {
  /** Undefined when the arena has no room. */
  take(sizeBytes: number): Block | undefined;
}

export const heapMemory = {
  take(sizeBytes: number): Block {
    return { memory: Buffer.allocUnsafeSlow(sizeBytes), release: () => undefined };
  },
} satisfies Arena;

export interface SlabArenaOptions {
  /** The most memory that the arena ever holds. It grows on demand and never shrinks. */
  readonly bytesMax: number;
  /** Slabs of shared memory, for buffers that worker threads see too. */
  readonly shared?: boolean;
}

/** Payloads are powers of two far more often than not; a block has this much more, for headers. */
const extraBytes = 64;
const blockBytesMin = 4096;
const blockBytesMax = 1024 * 1024;
/** Small blocks are cut from slabs of about this size. */
const slabBytes = 256 * 1024;

export class SlabArena implements Arena {
  readonly #bytesMax: number;
  readonly #shared: boolean;
  /** Free memory by block size without the extra bytes. */
  readonly #free = new Map<number, Buffer[]>();
  #bytes = 0;
  #takenCount = 0;

  constructor(options: SlabArenaOptions) {
    this.#bytesMax = options.bytesMax;
    this.#shared = options.shared ?? false;
  }

  /** Memory held, given out or not. */
  get bytes(): number {
    return this.#bytes;
  }

  get takenCount(): number {
    return this.#takenCount;
  }

  take(sizeBytes: number): Block | undefined {
    const blockBytes = blockBytesFor(sizeBytes);
    if (blockBytes > blockBytesMax) return undefined;
    let free = this.#free.get(blockBytes);
    if (free === undefined) this.#free.set(blockBytes, (free = []));
    if (free.length === 0) this.#grow(blockBytes, free);
    const memory = free.pop();
    if (memory === undefined) return undefined;
    this.#takenCount++;
    let released = false;
    const release = (): void => {
      assert(!released, 'a block is released once');
      released = true;
      this.#takenCount--;
      free.push(memory);
    };
    return { memory, release };
  }

  #grow(blockBytes: number, free: Buffer[]): void {
    const pieceBytes = blockBytes + extraBytes;
    const room = Math.floor((this.#bytesMax - this.#bytes) / pieceBytes);
    const count = Math.min(room, Math.max(1, Math.floor(slabBytes / pieceBytes)));
    if (count === 0) return;
    const length = count * pieceBytes;
    const slab = Buffer.from(
      this.#shared ? new SharedArrayBuffer(length) : new ArrayBuffer(length),
    );
    this.#bytes += length;
    for (let index = 0; index < count; index++) {
      free.push(slab.subarray(index * pieceBytes, (index + 1) * pieceBytes));
    }
  }
}

/** The least power of two that the size fits in, the extra bytes not counted. */
function blockBytesFor(sizeBytes: number): number {
  let blockBytes = blockBytesMin;
  while (blockBytes + extraBytes < sizeBytes) blockBytes *= 2;
  return blockBytes;
}
