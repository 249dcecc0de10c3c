/**
 * Memory for reads that is used again: fresh memory costs a page fault per 4 KiB and garbage, more than the read itself
 * when the data is in the page cache. Buffers are cut from slabs; a slab is used again when every buffer that was cut
 * from it has come back. One that does not come back keeps its slab out of use until the garbage collector takes both.
 */
import { assert } from '../base/assert.ts';

const slabBytes = 4 * 2 ** 20;
/** Longer reads are rare, and get memory of their own. */
const pooledBytesMax = 2 ** 20;
/** Slabs kept for later; more than are in use at a time by a busy client. */
const sparesMax = 4;

interface Slab {
  readonly bytes: Buffer;
  usedBytes: number;
  /** Buffers that are out. */
  users: number;
}

export class ReadMemory {
  readonly #slabs = new WeakMap<ArrayBufferLike, Slab>();
  readonly #spares: Slab[] = [];
  #slab: Slab | null = null;

  /** Contents undefined. */
  take(length: number): Buffer {
    if (length > pooledBytesMax) return Buffer.allocUnsafeSlow(length);
    let slab = this.#slab;
    if (slab === null || slab.usedBytes + length > slabBytes) slab = this.#next();
    const buffer = slab.bytes.subarray(slab.usedBytes, slab.usedBytes + length);
    slab.usedBytes += length;
    slab.users++;
    return buffer;
  }

  /** Once for each buffer, or a part of it, by whoever will not look at it again; other memory is ignored. */
  giveBack(buffer: Buffer): void {
    const slab = this.#slabs.get(buffer.buffer);
    if (slab === undefined) return;
    assert(slab.users > 0, 'a buffer comes back once');
    slab.users--;
    if (slab.users > 0) return;
    slab.usedBytes = 0;
    if (slab !== this.#slab && this.#spares.length < sparesMax) this.#spares.push(slab);
  }

  #next(): Slab {
    const slab = this.#spares.pop() ?? this.#make();
    this.#slab = slab;
    return slab;
  }

  #make(): Slab {
    const bytes = Buffer.allocUnsafeSlow(slabBytes);
    const slab = { bytes, usedBytes: 0, users: 0 };
    this.#slabs.set(bytes.buffer, slab);
    return slab;
  }
}
