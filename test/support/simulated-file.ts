/** An open file of SimulatedDisk, whose header comment describes the model. */
import { assert } from '../../src/base/assert.ts';
import type { DiskFile } from '../../src/volumedriver/disk/disk.ts';
import type { SeededRandom } from './seeded-random.ts';
import { failure, type Operation, type OperationKind } from './simulated-operations.ts';
import type { FileNode } from './simulated-tree.ts';

/** What a file needs of its disk. */
export interface FileHost {
  readonly random: SeededRandom;
  /** Counts an operation and tells the listeners; throws after a crash. */
  start(kind: OperationKind, path: string): Operation;
  /** Throws when a listener has crashed the disk. */
  drawFault(operation: Operation): string | undefined;
  /** Both of them; throws the fault. */
  begin(kind: OperationKind, path: string): void;
  wait(operation: Operation): Promise<void>;
  refuseAfterCrash(operation: Operation): void;
  crashed(): 'process' | 'power' | undefined;
  cacheMisses(): boolean;
  /** Whether a file may grow from `before` to `after` bytes. */
  room(before: number, after: number): boolean;
  resized(before: number, after: number): void;
  closed(node: FileNode): void;
}

const pageBytes = 4096;

export class SimulatedFile implements DiskFile {
  readonly path: string;
  readonly #host: FileHost;
  readonly #node: FileNode;
  readonly #writable: boolean;
  #closed = false;

  constructor(host: FileHost, path: string, node: FileNode, writable: boolean) {
    this.#host = host;
    this.path = path;
    this.#node = node;
    this.#writable = writable;
    node.openCount++;
  }

  write(buffers: readonly Uint8Array[], position: number): void {
    const bytes = Buffer.concat(buffers);
    this.#assertOpen();
    this.#writeNow(this.#host.start('write', this.path), bytes, position);
  }

  async writeOffThread(buffers: readonly Uint8Array[], position: number): Promise<void> {
    if (this.#closed) throw failure('write', this.path, 'EBADF');
    const operation = this.#host.start('write', this.path);
    await this.#host.wait(operation);
    this.#host.refuseAfterCrash(operation);
    // Only now, so that a test notices bytes that changed while they were in flight.
    this.#writeNow(operation, Buffer.concat(buffers), position);
  }

  #writeNow(operation: Operation, bytes: Buffer, position: number): void {
    if (this.#host.crashed() === 'process') this.#writeFirstPart(bytes, position);
    const fault = this.#host.drawFault(operation) ?? (this.#writable ? undefined : 'EBADF');
    if (fault === 'EBADF') throw failure('write', this.path, fault);
    const { content } = this.#node;
    const end = bytes.length === 0 ? 0 : position + bytes.length;
    const full = !this.#host.room(content.sizeBytes, Math.max(content.sizeBytes, end));
    if (fault === undefined && !full) {
      this.#apply(bytes, position);
      return;
    }
    this.#writeFirstPart(bytes, position);
    throw failure('write', this.path, fault ?? 'ENOSPC');
  }

  readCached(buffer: Uint8Array, position: number): boolean {
    this.#assertOpen();
    this.#host.begin('readCached', this.path);
    if (this.#host.cacheMisses()) return false;
    return this.#node.content.read(buffer, position) === buffer.byteLength;
  }

  readSync(buffer: Uint8Array, position: number): number {
    this.#assertOpen();
    this.#host.begin('readSync', this.path);
    return this.#node.content.read(buffer, position);
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#closed) throw failure('read', this.path, 'EBADF');
    const operation = this.#host.start('read', this.path);
    const fault = this.#host.drawFault(operation);
    await this.#host.wait(operation);
    this.#host.refuseAfterCrash(operation);
    if (fault !== undefined) throw failure('read', this.path, fault);
    return this.#node.content.read(buffer, position);
  }

  async sync(): Promise<void> {
    if (this.#closed) throw failure('sync', this.path, 'EBADF');
    const operation = this.#host.start('sync', this.path);
    const fault = this.#host.drawFault(operation);
    const { content } = this.#node;
    const mark = content.mark();
    await this.#host.wait(operation);
    this.#host.refuseAfterCrash(operation);
    if (fault === undefined) {
      content.commit(mark);
      return;
    }
    content.lose(mark, this.#host.random);
    throw failure('sync', this.path, fault);
  }

  truncate(sizeBytes: number): void {
    this.#assertOpen();
    this.#host.begin('truncate', this.path);
    if (!this.#writable) throw failure('truncate', this.path, 'EBADF');
    const before = this.#node.content.sizeBytes;
    if (!this.#host.room(before, sizeBytes)) throw failure('truncate', this.path, 'ENOSPC');
    this.#node.content.truncate(sizeBytes);
    this.#host.resized(before, sizeBytes);
  }

  sizeBytes(): number {
    this.#assertOpen();
    return this.#node.content.sizeBytes;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#host.crashed() !== undefined) return; // the crash has closed it
    this.#node.openCount--;
    this.#host.closed(this.#node);
  }

  /** A write that fails, or whose process dies in it, may have written any number of whole pages, if there is room. */
  #writeFirstPart(bytes: Uint8Array, position: number): void {
    const length =
      this.#host.random.integer(Math.floor(bytes.byteLength / pageBytes) + 1) * pageBytes;
    const { sizeBytes } = this.#node.content;
    if (length === 0 || !this.#host.room(sizeBytes, Math.max(sizeBytes, position + length))) return;
    this.#apply(bytes.subarray(0, length), position);
  }

  #apply(bytes: Uint8Array, position: number): void {
    const before = this.#node.content.sizeBytes;
    this.#node.content.write(bytes, position);
    this.#host.resized(before, this.#node.content.sizeBytes);
  }

  #assertOpen(): void {
    assert(!this.#closed, `${this.path} is open`);
  }
}
