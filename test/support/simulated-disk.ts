/**
 * A Disk wholly in memory that can crash and fail, repeatably from a seed.
 *
 * The model, which is what ext4 and xfs allow and rather stricter than what they do:
 * - A write is visible at once and durable after a sync of its file that began after it. A process that dies loses
 *   nothing but the part of a write it was in; only a power cut does.
 * - At a power cut every 512-byte sector of every unsynced write did or did not reach the device, in any order. A
 *   file's length is metadata: of the unsynced changes a first part took effect, the last perhaps half. A length
 *   without its data reads zeroes, never old contents of the device.
 * - A name (made, linked, renamed, removed) is durable after a sync of its directory that began after the change.
 *   Syncing the file itself doesn't help, and syncing a directory doesn't help the directory's own name. Of the
 *   unsynced changes in one directory a first part survives; directories are independent of each other, except that
 *   a rename between two happened in both or in neither.
 * - A failed sync leaves everything readable and counted as clean: a part of it became durable, the rest never does,
 *   although later syncs succeed. A failed write may have written a first part.
 *
 * crash() ends this object: it and its files refuse every further call, pending ones reject, and the disk that the
 * next process finds is the one returned.
 */
import type { Capacity } from '../../src/volumes/volume.ts';
import type { Disk, DiskFile } from '../../src/volumedriver/disk/disk.ts';
import { SeededRandom } from './seeded-random.ts';
import {
  failure,
  operationKinds,
  type Fault,
  type Operation,
  type OperationKind,
} from './simulated-operations.ts';
import { SimulatedFile, type FileHost } from './simulated-file.ts';
import {
  makeDirectory,
  makeFile,
  SimulatedTree,
  type FileNode,
  type Node,
} from './simulated-tree.ts';

export interface SimulatedDiskOptions {
  readonly seed?: number;
  readonly capacityBytes?: number;
  /** How often readCached says that the bytes are not in the page cache; 0 unless given. */
  readonly cacheMissProbability?: number;
  /** Awaited by every asynchronous operation before it takes effect; a few turns of the microtask queue by default. */
  readonly latency?: (operation: Operation) => Promise<void>;
}

interface ArmedFault extends Fault {
  remaining: number;
}

const blockBytes = 4096;

export class SimulatedDisk implements Disk {
  readonly counts: Record<OperationKind, number>;
  readonly #options: SimulatedDiskOptions;
  readonly #random: SeededRandom;
  readonly #tree: SimulatedTree;
  readonly #host: FileHost;
  #faults: ArmedFault[] = [];
  #listeners: ((operation: Operation) => void)[] = [];
  #operationCount = 0;
  #usedBytes = 0;
  #crashed: 'process' | 'power' | undefined;

  constructor(
    options: SimulatedDiskOptions = {},
    before?: { tree: SimulatedTree; random: SeededRandom },
  ) {
    this.#options = options;
    this.#random = before?.random ?? new SeededRandom(options.seed ?? 1);
    this.#tree = before?.tree ?? new SimulatedTree();
    for (const { content } of this.#tree.files()) this.#usedBytes += allocated(content.sizeBytes);
    this.counts = Object.fromEntries(operationKinds.map((kind) => [kind, 0])) as Record<
      OperationKind,
      number
    >;
    this.#host = this.#makeHost();
  }

  get crashed(): boolean {
    return this.#crashed !== undefined;
  }

  /** Ends this disk; the one returned is what the next process finds. See above for what each kind loses. */
  crash(kind: 'process' | 'power'): SimulatedDisk {
    if (this.#crashed !== undefined) throw new Error('this disk has crashed before');
    this.#crashed = kind;
    if (kind === 'power') this.#tree.cut(this.#random);
    for (const file of this.#tree.files()) file.openCount = 0;
    return new SimulatedDisk(this.#options, { tree: this.#tree, random: this.#random });
  }

  /** Calls back before each operation takes effect; the callback may crash the disk. */
  onOperation(listener: (operation: Operation) => void): void {
    this.#listeners.push(listener);
  }

  fail(fault: Fault): void {
    this.#faults.push({ ...fault, remaining: fault.nth ?? 1 });
  }

  /** Forgets all faults, as if the device had been repaired. */
  repair(): void {
    this.#faults = [];
  }

  /** What a power cut could not take away: the file's durable content, if its visible name leads to it. */
  durableContent(path: string): Buffer | undefined {
    const node = this.#tree.find(path);
    return node?.kind === 'file' ? node.content.durableBytes() : undefined;
  }

  create(path: string): DiskFile {
    this.#begin('create', path);
    const place = this.#tree.locate(path);
    if (place === undefined) throw failure('create', path, 'ENOENT');
    if (place.directory.visible.has(place.name)) throw failure('create', path, 'EEXIST');
    const node = makeFile();
    this.#tree.change({ ...place, node });
    return new SimulatedFile(this.#host, path, node, true);
  }

  open(path: string, access: 'read' | 'write'): DiskFile {
    this.#begin('open', path);
    const node = this.#tree.find(path);
    if (node === undefined) throw failure('open', path, 'ENOENT');
    if (node.kind === 'directory') throw failure('open', path, 'EISDIR');
    return new SimulatedFile(this.#host, path, node, access === 'write');
  }

  list(directory: string): string[] {
    this.#begin('list', directory);
    const node = this.#tree.find(directory);
    return node?.kind === 'directory' ? [...node.visible.keys()].sort() : [];
  }

  makeDirectory(path: string): void {
    this.#begin('makeDirectory', path);
    const segments = path.split('/').filter((segment) => segment !== '');
    for (let depth = 1; depth <= segments.length; depth++) {
      const parent = segments.slice(0, depth).join('/');
      const node = this.#tree.find(parent);
      if (node?.kind === 'directory') continue;
      const place = this.#tree.locate(parent);
      if (node !== undefined || place === undefined)
        throw failure('make directory', path, 'EEXIST');
      this.#tree.change({ ...place, node: makeDirectory() });
    }
  }

  sizeOf(path: string): number | undefined {
    this.#begin('sizeOf', path);
    const node = this.#tree.find(path);
    return node?.kind === 'file' ? node.content.sizeBytes : undefined;
  }

  remove(path: string): void {
    this.#begin('remove', path);
    const place = this.#tree.locate(path);
    const node = place?.directory.visible.get(place.name);
    if (place === undefined || node === undefined) return;
    if (node.kind === 'directory' && node.visible.size > 0) {
      throw failure('remove directory', path, 'ENOTEMPTY');
    }
    this.#tree.change({ ...place, node: undefined });
    if (node.kind === 'file') this.#freeIfUnused(node);
  }

  rename(from: string, to: string): void {
    const what = `${from} to ${to}`;
    this.#begin('rename', what);
    const source = this.#tree.locate(from);
    const target = this.#tree.locate(to);
    const node = source?.directory.visible.get(source.name);
    if (source === undefined || target === undefined || node === undefined) {
      throw failure('rename', what, 'ENOENT');
    }
    const replaced = target.directory.visible.get(target.name);
    if (replaced === node) return;
    const refusal = replaced === undefined ? undefined : whyNotReplaced(replaced, node);
    if (refusal !== undefined) throw failure('rename', what, refusal);
    this.#tree.change({ ...target, node }, { ...source, node: undefined });
    if (replaced?.kind === 'file') this.#freeIfUnused(replaced);
  }

  link(from: string, to: string): boolean {
    const what = `${from} to ${to}`;
    this.#begin('link', what);
    const node = this.#tree.find(from);
    const target = this.#tree.locate(to);
    if (node?.kind !== 'file' || target === undefined) throw failure('link', what, 'ENOENT');
    if (target.directory.visible.has(target.name)) return false;
    this.#tree.change({ ...target, node });
    return true;
  }

  async syncDirectory(path: string): Promise<void> {
    const operation = this.#start('syncDirectory', path);
    const fault = this.#drawFault(operation);
    const node = this.#tree.find(path);
    if (node?.kind !== 'directory') throw failure('sync directory', path, 'ENOENT');
    const mark = this.#tree.mark();
    await this.#wait(operation);
    this.#refuseAfterCrash(operation);
    if (fault === undefined) {
      this.#tree.commit(node, mark);
      return;
    }
    this.#tree.lose(node, mark, this.#random);
    throw failure('sync directory', path, fault);
  }

  async capacity(path: string): Promise<Capacity> {
    const operation = this.#start('capacity', path);
    const fault = this.#drawFault(operation);
    if (fault !== undefined) throw failure('capacity', path, fault);
    if (this.#tree.find(path) === undefined) throw failure('statfs', path, 'ENOENT');
    await this.#wait(operation);
    this.#refuseAfterCrash(operation);
    const totalBytes = this.#options.capacityBytes ?? 2 ** 40;
    return { totalBytes, availableBytes: Math.max(0, totalBytes - this.#usedBytes) };
  }

  #makeHost(): FileHost {
    return {
      random: this.#random,
      start: (kind, path) => this.#start(kind, path),
      drawFault: (operation) => this.#drawFault(operation),
      begin: (kind, path) => {
        this.#begin(kind, path);
      },
      wait: (operation) => this.#wait(operation),
      refuseAfterCrash: (operation) => {
        this.#refuseAfterCrash(operation);
      },
      crashed: () => this.#crashed,
      cacheMisses: () => this.#random.chance(this.#options.cacheMissProbability ?? 0),
      resized: (before, after) => {
        this.#usedBytes += allocated(after) - allocated(before);
      },
      room: (before, after) => {
        const growth = allocated(after) - allocated(before);
        return growth <= 0 || this.#usedBytes + growth <= (this.#options.capacityBytes ?? Infinity);
      },
      closed: (node) => {
        this.#freeIfUnused(node);
      },
    };
  }

  /** Counts an operation and tells the listeners; refuses it after a crash, also one that a listener caused. */
  #start(kind: OperationKind, path: string): Operation {
    if (this.#crashed !== undefined) throw failure(kind, path, 'ESHUTDOWN');
    this.counts[kind]++;
    const operation = { kind, path, number: ++this.#operationCount };
    for (const listener of this.#listeners) listener(operation);
    return operation;
  }

  #begin(kind: OperationKind, path: string): void {
    const fault = this.#drawFault(this.#start(kind, path));
    if (fault !== undefined) throw failure(kind, path, fault);
  }

  #drawFault(operation: Operation): Fault['errno'] | undefined {
    this.#refuseAfterCrash(operation);
    const { kind, path } = operation;
    let drawn: Fault['errno'] | undefined;
    for (const fault of [...this.#faults]) {
      if (fault.kind !== kind || fault.path?.(path) === false) continue;
      if (--fault.remaining > 0) continue;
      drawn ??= fault.errno;
      if (fault.fromThenOn !== true) this.#faults = this.#faults.filter((one) => one !== fault);
    }
    return drawn;
  }

  async #wait(operation: Operation): Promise<void> {
    if (this.#options.latency !== undefined) await this.#options.latency(operation);
    else for (let turns = this.#random.integer(4); turns >= 0; turns--) await Promise.resolve();
  }

  /** To be called in the same turn as the effect: a crash may come between any two turns. */
  #refuseAfterCrash({ kind, path }: Operation): void {
    if (this.#crashed !== undefined) throw failure(kind, path, 'ESHUTDOWN');
  }

  #freeIfUnused(node: FileNode): void {
    if (node.linkCount > 0 || node.openCount > 0) return;
    this.#usedBytes -= allocated(node.content.sizeBytes);
  }
}

/** The errno with which rename(2) refuses to replace one node by another, if it does. */
function whyNotReplaced(replaced: Node, by: Node): string | undefined {
  if (replaced.kind === 'file') return by.kind === 'file' ? undefined : 'ENOTDIR';
  if (by.kind === 'file') return 'EISDIR';
  return replaced.visible.size > 0 ? 'ENOTEMPTY' : undefined;
}

function allocated(sizeBytes: number): number {
  return Math.ceil(sizeBytes / blockBytes) * blockBytes;
}
