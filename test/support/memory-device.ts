/**
 * A BlockDevice in memory, complete with holes, sizes that grow and several clients of one storage, and an
 * ExportProvider over a few of them. Tests can make operations fail, hold them back and look at what was called.
 */
import type {
  BlockDevice,
  ExportInfo,
  ExportProvider,
  Extent,
} from '../../src/volumes/block-device.ts';
import { VolumeError } from '../../src/volumes/errors.ts';

const clusterBytes = 4096;
const zeroCluster = Buffer.alloc(clusterBytes);

/** What all devices of one export share. */
export class MemoryStorage {
  sizeBytes: number;
  readonly readOnly: boolean;
  readonly #clusters = new Map<number, Buffer>();

  constructor(sizeBytes: number, options: { readOnly?: boolean } = {}) {
    this.sizeBytes = sizeBytes;
    this.readOnly = options.readOnly ?? false;
  }

  read(offset: number, length: number): Buffer[] {
    const buffers: Buffer[] = [];
    forEachPiece(offset, length, (index, start, end) => {
      buffers.push((this.#clusters.get(index) ?? zeroCluster).subarray(start, end));
    });
    return buffers;
  }

  /** Copy on write, so that buffers handed out by `read` keep what was read. */
  write(offset: number, data: Buffer): void {
    let taken = 0;
    forEachPiece(offset, data.length, (index, start, end) => {
      const piece = data.subarray(taken, taken + end - start);
      taken += piece.length;
      const cluster = Buffer.allocUnsafe(clusterBytes);
      if (piece.length < clusterBytes) (this.#clusters.get(index) ?? zeroCluster).copy(cluster);
      piece.copy(cluster, start);
      this.#clusters.set(index, cluster);
    });
  }

  discard(offset: number, length: number): void {
    forEachPiece(offset, length, (index, start, end) => {
      if (end - start === clusterBytes) this.#clusters.delete(index);
      else if (this.#clusters.has(index)) {
        this.write(index * clusterBytes + start, zeroCluster.subarray(start, end));
      }
    });
  }

  extents(offset: number, length: number, maxExtents: number): Extent[] {
    const extents: Extent[] = [];
    forEachPiece(offset, length, (index, start, end) => {
      const hole = !this.#clusters.has(index);
      const last = extents.at(-1);
      if (last?.hole === hole) last.lengthBytes += end - start;
      else extents.push({ hole, lengthBytes: end - start });
    });
    return extents.slice(0, maxExtents);
  }
}

function forEachPiece(
  offset: number,
  length: number,
  visit: (index: number, start: number, end: number) => void,
): void {
  for (let at = offset; at < offset + length;) {
    const start = at % clusterBytes;
    const end = Math.min(clusterBytes, start + offset + length - at);
    visit(Math.floor(at / clusterBytes), start, end);
    at += end - start;
  }
}

export type Operation =
  'read' | 'write' | 'discard' | 'writeZeroes' | 'flush' | 'cache' | 'extents';

export interface Call {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly allocate: boolean;
}

/** Lets a test decide about each call: wait by returning a promise, fail by throwing. */
export type Interceptor = (call: Call) => Promise<void> | void;

export class MemoryDevice implements BlockDevice {
  readonly #storage: MemoryStorage;
  readonly #intercept: Interceptor;
  readonly #revocation = new AbortController();
  /** Calls in the order in which they were made. */
  readonly calls: Call[] = [];
  /** Operations that were carried out after the interceptor had let them through. */
  readonly applied: Call[] = [];
  closeCalls = 0;

  constructor(storage: MemoryStorage, intercept: Interceptor = () => undefined) {
    this.#storage = storage;
    this.#intercept = intercept;
  }

  get sizeBytes(): number {
    return this.#storage.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#storage.readOnly;
  }

  get revoked(): AbortSignal {
    return this.#revocation.signal;
  }

  revoke(): void {
    this.#revocation.abort();
  }

  read(offset: number, length: number): Promise<Buffer[]> {
    return this.#run({ operation: 'read', offset, length }, () =>
      this.#storage.read(offset, length),
    );
  }

  write(offset: number, data: Buffer, { fua }: { fua: boolean }): Promise<void> {
    return this.#run({ operation: 'write', offset, length: data.length, fua }, () =>
      this.#storage.write(offset, data),
    );
  }

  discard(offset: number, length: number, { fua }: { fua: boolean }): Promise<void> {
    return this.#run({ operation: 'discard', offset, length, fua }, () =>
      this.#storage.discard(offset, length),
    );
  }

  writeZeroes(
    offset: number,
    length: number,
    { fua, allocate }: { fua: boolean; allocate: boolean },
  ): Promise<void> {
    return this.#run({ operation: 'writeZeroes', offset, length, fua, allocate }, () => {
      if (allocate) this.#storage.write(offset, Buffer.alloc(length));
      else this.#storage.discard(offset, length);
    });
  }

  flush(): Promise<void> {
    return this.#run({ operation: 'flush', offset: 0, length: 0 }, () => undefined);
  }

  cache(offset: number, length: number): Promise<void> {
    return this.#run({ operation: 'cache', offset, length }, () => undefined);
  }

  extents(offset: number, length: number, maxExtents: number): Promise<Extent[]> {
    return this.#run({ operation: 'extents', offset, length }, () =>
      this.#storage.extents(offset, length, maxExtents),
    );
  }

  close(): Promise<void> {
    this.closeCalls += 1;
    return Promise.resolve();
  }

  async #run<Result>(
    request: Pick<Call, 'operation' | 'offset' | 'length'> & Partial<Call>,
    apply: () => Result,
  ): Promise<Result> {
    const call: Call = { fua: false, allocate: false, ...request };
    this.calls.push(call);
    const waiting = this.#intercept(call);
    if (waiting !== undefined) await waiting;
    if (call.offset + call.length > this.sizeBytes) {
      throw new VolumeError('BEYOND_END', `${call.operation}: past the end of the device`);
    }
    this.applied.push(call);
    return apply();
  }
}

interface MemoryExport {
  readonly storage: MemoryStorage;
  readonly intercept: Interceptor | undefined;
}

/** Named storages; each open makes a device of its own, which tests find in `devices`. */
export class MemoryExports implements ExportProvider {
  readonly #exports = new Map<string, MemoryExport>();
  readonly devices: MemoryDevice[] = [];
  /** Held by tests that want to see what happens while an export is being opened. */
  beforeOpen: () => Promise<void> = () => Promise.resolve();

  add(name: string, storage: MemoryStorage, intercept?: Interceptor): MemoryStorage {
    this.#exports.set(name, { storage, intercept });
    return storage;
  }

  async open(exportName: string): Promise<MemoryDevice> {
    await this.beforeOpen();
    const { storage, intercept } = this.#find(exportName);
    const device = new MemoryDevice(storage, intercept);
    this.devices.push(device);
    return device;
  }

  async info(exportName: string): Promise<ExportInfo> {
    return await Promise.resolve(infoOf(exportName, this.#find(exportName).storage));
  }

  list(): Promise<ExportInfo[]> {
    return Promise.resolve([...this.#exports].map(([name, { storage }]) => infoOf(name, storage)));
  }

  #find(exportName: string): MemoryExport {
    const found = this.#exports.get(exportName);
    if (found !== undefined) return found;
    const what = `open export ${JSON.stringify(exportName)}`;
    throw new VolumeError('VOLUME_NOT_FOUND', `${what}: there is no such volume`);
  }
}

function infoOf(name: string, storage: MemoryStorage): ExportInfo {
  const { sizeBytes, readOnly } = storage;
  return { name, description: `memory export ${name}`, sizeBytes, readOnly };
}
