/**
 * An ObjectStore around another one that can be made slow, unreachable or dishonest, and that counts what is asked
 * of it. A call takes these steps: count, delay, block, fault; then the inner store; then a lost answer.
 */
import { VolumeError, type ErrorCode } from '../../src/volumes/errors.ts';
import type { Capacity } from '../../src/volumes/volume.ts';
import type {
  ByteRange,
  ObjectInfo,
  ObjectStore,
} from '../../src/volumedriver/store/object-store.ts';

export type StoreCall = 'putIfAbsent' | 'put' | 'putFile' | 'get' | 'list' | 'delete' | 'capacity';

export interface StoreFault {
  /** Any of the three puts for 'anyPut'. */
  readonly call: StoreCall | 'anyPut';
  /** The n-th matching call from now; the first unless given. */
  readonly nth?: number;
  /** Fail all from then on, not only that one. */
  readonly fromThenOn?: boolean;
  /** UNAVAILABLE unless given. */
  readonly code?: ErrorCode;
  /** The work is done, only the answer is lost. */
  readonly afterwards?: boolean;
  readonly key?: (key: string) => boolean;
}

interface ArmedFault extends StoreFault {
  remaining: number;
}

interface Block {
  readonly matches: (key: string) => boolean;
  readonly released: PromiseWithResolvers<void>;
}

const putCalls: ReadonlySet<StoreCall> = new Set(['putIfAbsent', 'put', 'putFile']);

export class FaultyStore implements ObjectStore {
  readonly description: string;
  /** How often each key was asked for. */
  readonly gets = new Map<string, number>();
  readonly puts = new Map<string, number>();
  readonly deletes = new Map<string, number>();
  /** Awaited before each call takes effect. */
  delay: ((call: StoreCall, key: string) => Promise<void>) | undefined;
  /** How many puts wait to be released. */
  blockedCount = 0;
  readonly #inner: ObjectStore;
  readonly #flips = new Map<string, number[]>();
  #faults: ArmedFault[] = [];
  #blocks: Block[] = [];

  constructor(inner: ObjectStore) {
    this.#inner = inner;
    this.description = inner.description;
  }

  /** Holds back puts (of matching keys) until the function returned is called. */
  blockPuts(matches: (key: string) => boolean = () => true): () => void {
    const block: Block = { matches, released: Promise.withResolvers() };
    this.#blocks.push(block);
    return () => {
      this.#blocks = this.#blocks.filter((one) => one !== block);
      block.released.resolve();
    };
  }

  fail(fault: StoreFault): void {
    this.#faults.push({ ...fault, remaining: fault.nth ?? 1 });
  }

  /** Forgets all faults. */
  repair(): void {
    this.#faults = [];
  }

  /** Inverts one byte of an object, for every reader from now on. */
  flipByte(key: string, offset: number): void {
    this.#flips.set(key, [...(this.#flips.get(key) ?? []), offset]);
  }

  putIfAbsent(key: string, data: readonly Uint8Array[]): Promise<boolean> {
    return this.#run('putIfAbsent', key, () => this.#inner.putIfAbsent(key, data));
  }

  put(key: string, data: readonly Uint8Array[]): Promise<void> {
    return this.#run('put', key, () => this.#inner.put(key, data));
  }

  async confirm(key: string): Promise<void> {
    await this.#inner.confirm?.(key);
  }

  putFile(key: string, path: string): Promise<void> {
    return this.#run('putFile', key, () => this.#inner.putFile(key, path));
  }

  async get(key: string, range?: ByteRange): Promise<Buffer | undefined> {
    const data = await this.#run('get', key, () => this.#inner.get(key, range));
    if (data === undefined) return undefined;
    for (const offset of this.#flips.get(key) ?? []) {
      const index = offset - (range?.offset ?? 0);
      const byte = data[index];
      if (byte !== undefined) data[index] = byte ^ 0xff;
    }
    return data;
  }

  list(prefix: string, options?: { startAfter?: string; limit?: number }): Promise<ObjectInfo[]> {
    return this.#run('list', prefix, () => this.#inner.list(prefix, options));
  }

  delete(key: string): Promise<void> {
    return this.#run('delete', key, () => this.#inner.delete(key));
  }

  /** None for an object with a flipped byte: its file is intact. */
  localFile(key: string): string | undefined {
    return this.#flips.has(key) ? undefined : this.#inner.localFile(key);
  }

  capacity(): Promise<Capacity | null> {
    return this.#run('capacity', '', () => this.#inner.capacity());
  }

  async #run<T>(call: StoreCall, key: string, run: () => Promise<T>): Promise<T> {
    this.#count(call, key);
    if (this.delay !== undefined) await this.delay(call, key);
    if (putCalls.has(call)) await this.#passBlocks(key);
    const fault = this.#drawFault(call, key);
    if (fault !== undefined && fault.afterwards !== true) throw failureOf(fault, call, key);
    const result = await run();
    if (fault !== undefined) throw failureOf(fault, call, key);
    return result;
  }

  #count(call: StoreCall, key: string): void {
    let counts = this.gets;
    if (putCalls.has(call)) counts = this.puts;
    else if (call === 'delete') counts = this.deletes;
    else if (call !== 'get') return;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }

  async #passBlocks(key: string): Promise<void> {
    for (;;) {
      const block = this.#blocks.find(({ matches }) => matches(key));
      if (block === undefined) return;
      this.blockedCount++;
      await block.released.promise;
      this.blockedCount--;
    }
  }

  #drawFault(call: StoreCall, key: string): StoreFault | undefined {
    let drawn: StoreFault | undefined;
    for (const fault of [...this.#faults]) {
      const matches = fault.call === call || (fault.call === 'anyPut' && putCalls.has(call));
      if (!matches || fault.key?.(key) === false) continue;
      if (--fault.remaining > 0) continue;
      drawn ??= fault;
      if (fault.fromThenOn !== true) this.#faults = this.#faults.filter((one) => one !== fault);
    }
    return drawn;
  }
}

function failureOf(fault: StoreFault, call: StoreCall, key: string): VolumeError {
  return new VolumeError(fault.code ?? 'UNAVAILABLE', `${call} ${key}: simulated failure`);
}
