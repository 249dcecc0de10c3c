/**
 * Bytes that came in pieces, taken out in others. For handshakes only: taking may copy. The owner bounds its
 * length by taking (or closing) before it pushes without limit.
 */
export class ByteQueue {
  #bytes: Buffer = Buffer.alloc(0);

  get length(): number {
    return this.#bytes.length;
  }

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
  }

  /** The first `count` bytes without taking them, or null while there are fewer. */
  peek(count: number): Buffer | null {
    return this.#bytes.length < count ? null : this.#bytes.subarray(0, count);
  }

  /** Takes `count` bytes, or as many as there are when there are fewer. */
  take(count: number): Buffer {
    const taken = this.#bytes.subarray(0, count);
    this.#bytes = this.#bytes.subarray(taken.length);
    return taken;
  }
}
