/** What the parts of the attacher's contract share: a harness with its attacher, devices, blocks and writers. */
import { expect } from '@jest/globals';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../volumes/command.ts';
import type { Device } from '../volumes/device-service.ts';
import type {
  Attacher,
  AttacherSettings,
  ContractHarness,
  ContractServer,
} from './attacher-contract.ts';

export const MiB = 1024 * 1024;
/** Of a device, unless a test says otherwise. */
export const sizeBytes = 64 * MiB;
const timeoutMs = 20_000;
/** Detaching is bounded: its own limits in the harness, and this around them. */
const detachBoundMs = 15_000;

export interface DeviceOptions {
  readonly readOnly?: boolean;
  readonly sizeBytes?: number;
  /** A server whose connections grow. */
  readonly growing?: boolean;
}

export class ContractWorld {
  #harness: ContractHarness | undefined;
  #attacher: Attacher | undefined;

  async open(harness: ContractHarness): Promise<void> {
    this.#harness = harness;
    this.#attacher = harness.newAttacher();
    await this.#attacher.start();
  }

  async close(): Promise<void> {
    await this.#attacher?.close();
    await this.#harness?.close();
  }

  get harness(): ContractHarness {
    if (this.#harness === undefined) throw new Error('the harness is not open');
    return this.#harness;
  }

  get attacher(): Attacher {
    if (this.#attacher === undefined) throw new Error('the harness is not open');
    return this.#attacher;
  }

  /** Another attacher takes over, over the same state directory; it is not started. */
  async replaceAttacher(settings?: AttacherSettings): Promise<void> {
    await this.attacher.close();
    this.#attacher = this.harness.newAttacher(settings);
  }

  /** A started server of its own and a volume attached from it; everything is undone afterwards. */
  async withDevice(
    volumeId: string,
    body: (device: Device, server: ContractServer) => Promise<void>,
    options: DeviceOptions = {},
  ): Promise<void> {
    const bytes = options.sizeBytes ?? sizeBytes;
    const server = options.growing
      ? await this.harness.newGrowingServer(volumeId, bytes)
      : await this.harness.newServer(volumeId, bytes);
    await server.start();
    try {
      const uri = server.uri(`${volumeId}#1`);
      const readOnly = options.readOnly ?? false;
      await body(await this.attacher.attach({ volumeId, uri, readOnly }), server);
    } finally {
      server.resume();
      await this.attacher.detach(volumeId);
      await server.kill();
    }
    expect(await this.harness.leftovers()).toEqual([]);
  }

  async mounted(device: string, body: (folder: string) => Promise<void>): Promise<void> {
    const folder = join(this.harness.folder, 'mnt');
    await mkdir(folder, { recursive: true });
    await run('mount', [device, folder]);
    try {
      await body(folder);
    } finally {
      await run('umount', [folder]);
    }
  }

  async detachInTime(volumeId: string): Promise<void> {
    const started = performance.now();
    await this.attacher.detach(volumeId);
    expect(performance.now() - started).toBeLessThan(detachBoundMs);
    await expect(this.attacher.getDevice(volumeId)).rejects.toMatchObject({
      code: 'PATH_NOT_FOUND',
    });
  }
}

export async function run(command: string, args: string[]): Promise<string> {
  return (await runCommand(command, args, { timeoutMs })).stdout;
}

export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export async function waitFor(question: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await question())) {
    if (performance.now() > deadline)
      throw new Error('what the test waits for did not happen in time');
    await delay(20);
  }
}

export async function writeDurably(path: string, data: Buffer): Promise<void> {
  await writeFile(path, data, { flush: true });
}

export const blockBytes = 4096;

/** Every block differs, so that a misplaced one is noticed. */
function block(number: number, seed: string): Buffer {
  return Buffer.alloc(blockBytes, `${seed}-${number};`);
}

/** Through the page cache, not flushed. */
export async function writeBlocks(
  path: string,
  first: number,
  count: number,
  seed: string,
): Promise<void> {
  const file = await open(path, 'r+');
  try {
    const chunk = 16;
    for (let at = first; at < first + count; at += chunk) {
      const length = Math.min(chunk, first + count - at);
      const blocks = Array.from({ length }, (_, next) => block(at + next, seed));
      await file.write(Buffer.concat(blocks), 0, length * blockBytes, at * blockBytes);
    }
  } finally {
    await file.close();
  }
}

/** Past the page cache: what the server has. */
export async function expectBlocks(
  path: string,
  first: number,
  count: number,
  seed: string,
): Promise<void> {
  const chunk = 512;
  for (let at = first; at < first + count; at += chunk) {
    const length = Math.min(chunk, first + count - at);
    const where = [`skip=${at}`, `count=${length}`, 'bs=4096', 'iflag=direct', 'status=none'];
    const read = await run('dd', [`if=${path}`, ...where]);
    const expected = Array.from({ length }, (_, next) => block(at + next, seed).toString());
    expect({ at, equal: read === expected.join('') }).toEqual({ at, equal: true });
  }
}

/** Whether the device took it. */
export async function discard(path: string, offset: number, length: number): Promise<boolean> {
  try {
    await run('blkdiscard', ['--offset', String(offset), '--length', String(length), path]);
    return true;
  } catch (error) {
    if (String(error).includes('not supported')) return false;
    throw error;
  }
}

export interface Writer {
  written(): number;
  /** Rejects when a write failed. */
  stop(): Promise<number>;
}

/** Writes one block after the other, each waiting until the device has it. */
export function keepWriting(path: string, count: number): Writer {
  let written = 0;
  let left = count;
  const done = (async () => {
    const file = await open(path, 'rs+');
    try {
      while (written < left) {
        await file.write(block(written, 'keep'), 0, blockBytes, written * blockBytes);
        written += 1;
        await delay(1);
      }
    } finally {
      await file.close();
    }
  })();
  // Whoever stops it learns; a failure before that must not end the process.
  done.catch(() => undefined);
  return {
    written: () => written,
    stop: async () => {
      left = 0;
      await done;
      return written;
    },
  };
}
