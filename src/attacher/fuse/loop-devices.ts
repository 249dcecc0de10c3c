/**
 * Loop devices over our own files (loop(4), losetup(8)). A loop device belongs to us only if its backing file is
 * ours: by path, or, once that mount is detached and the kernel shows the path as "/", by the number and inode of
 * the filesystem, which cannot be reused while the device holds it. All others are never touched.
 */
import { readFile, readdir } from 'node:fs/promises';
import { basename } from 'node:path';
import * as z from 'zod';
import type { Clock } from '../../base/clock.ts';
import { hasErrno } from '../../base/errno.ts';
import type { RunCommand } from '../../volumes/command.ts';
import { commandErrorOf } from '../../volumes/command.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { waitUntil } from '../waiting.ts';

export interface Backing {
  readonly file: string;
  /** MAJOR:MINOR of the FUSE filesystem that is mounted on the file; null when it never was. */
  readonly deviceNumber: string | null;
}

/** qemu's FUSE export is a filesystem of one file: its root, inode 1. */
const fuseRootInode = 1;
const detachedPath = '/';

const losetupSchema = z.object({
  loopdevices: z.array(
    z.object({
      name: z.string(),
      'back-file': z.string().nullable(),
      'back-ino': z.coerce.number().nullable(),
      'back-maj:min': z.string().nullable(),
    }),
  ),
});

export interface LoopDevicesOptions {
  readonly runCommand: RunCommand;
  readonly clock: Clock;
  /** For each losetup. */
  readonly commandTimeoutMs: number;
}

export class LoopDevices {
  readonly #run: RunCommand;
  readonly #clock: Clock;
  readonly #timeoutMs: number;

  constructor(options: LoopDevicesOptions) {
    this.#run = options.runCommand;
    this.#clock = options.clock;
    this.#timeoutMs = options.commandTimeoutMs;
  }

  /** Makes a device with 512-byte logical blocks and returns its path. */
  async create(file: string, options: { readOnly: boolean }): Promise<string> {
    const args = ['--find', '--show', '--sector-size', '512', '--direct-io=off'];
    if (options.readOnly) args.push('--read-only');
    const { stdout } = await this.#run('losetup', [...args, file], { timeoutMs: this.#timeoutMs });
    const path = stdout.trim();
    if (!isLoopPath(path))
      throw new VolumeError('INTERNAL', `losetup: it printed ${JSON.stringify(path)}`);
    if ((await readSysFile(path, 'loop/dio')) === '1') {
      throw new VolumeError(
        'NOT_CAPABLE',
        `losetup: ${path} insists on direct I/O, which corrupts data`,
      );
    }
    return path;
  }

  /** Our devices over this file; `candidate` is one whose path may not tell any more. */
  async find(backing: Backing, candidate: string | null): Promise<string[]> {
    const found: string[] = [];
    for (const path of await listLoopPaths()) {
      const file = await readSysFile(path, 'loop/backing_file');
      if (file === backing.file || (path === candidate && (await this.isOurs(path, backing)))) {
        found.push(path);
      }
    }
    return found;
  }

  /** Whether this device is (still) over our file. */
  async isOurs(path: string, backing: Backing): Promise<boolean> {
    const file = await readSysFile(path, 'loop/backing_file');
    if (file === backing.file) return true;
    return file === detachedPath && (await this.#isSameFile(path, backing));
  }

  /** All files under `folder` that back a loop device. */
  async backingFilesUnder(folder: string): Promise<string[]> {
    const files: string[] = [];
    for (const path of await listLoopPaths()) {
      const file = await readSysFile(path, 'loop/backing_file');
      if (file?.startsWith(`${folder}/`) === true) files.push(file);
    }
    return files;
  }

  async sizeBytes(path: string): Promise<number> {
    return Number((await readSysFile(path, 'size')) ?? '0') * 512;
  }

  /**
   * Asks the kernel to let go of the device, which it does once the last user closed it. True when it is gone
   * within `timeoutMs`. The device must be ours.
   */
  async release(path: string, backing: Backing, timeoutMs: number): Promise<boolean> {
    try {
      await this.#run('losetup', ['--detach', path], {
        timeoutMs: Math.min(timeoutMs, this.#timeoutMs),
      });
    } catch (error) {
      // Stuck in the kernel, or gone already: what counts is what is there afterwards.
      if (commandErrorOf(error) === undefined) throw error;
    }
    return await waitUntil(
      this.#clock,
      { timeoutMs, everyMs: 20 },
      async () => !(await this.isOurs(path, backing)),
    );
  }

  /** Makes the device take its backing file's size. */
  async takeSize(path: string): Promise<void> {
    await this.#run('losetup', ['--set-capacity', path], { timeoutMs: this.#timeoutMs });
  }

  async #isSameFile(path: string, backing: Backing): Promise<boolean> {
    if (backing.deviceNumber === null) return false;
    const columns = 'NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN';
    const args = ['--list', '--json', '--output', columns, path];
    const { stdout } = await this.#run('losetup', args, {
      timeoutMs: this.#timeoutMs,
      acceptExitCodes: [0, 1],
    });
    return parseLosetup(stdout).some(
      (device) =>
        device.path === path &&
        device.inode === fuseRootInode &&
        device.deviceNumber === backing.deviceNumber,
    );
  }
}

export interface ListedLoop {
  readonly path: string;
  readonly inode: number | null;
  readonly deviceNumber: string | null;
}

/** What `losetup --json` printed, which is nothing at all without devices. PROTOCOL_ERROR for anything else. */
export function parseLosetup(text: string): ListedLoop[] {
  if (text.trim() === '') return [];
  try {
    return losetupSchema.parse(JSON.parse(text)).loopdevices.map((device) => ({
      path: device.name,
      inode: device['back-ino'],
      deviceNumber: device['back-maj:min']?.trim() ?? null,
    }));
  } catch (cause) {
    throw new VolumeError('PROTOCOL_ERROR', 'losetup: its JSON has the wrong form', { cause });
  }
}

export function isLoopPath(path: string): boolean {
  return /^\/dev\/loop[0-9]+$/.test(path);
}

async function listLoopPaths(): Promise<string[]> {
  return (await readdir('/sys/block')).map((name) => `/dev/${name}`).filter(isLoopPath);
}

async function readSysFile(path: string, attribute: string): Promise<string | null> {
  try {
    return (await readFile(`/sys/block/${basename(path)}/${attribute}`, 'utf8')).trimEnd();
  } catch (error) {
    // Without a backing file the folder `loop` is not there, or goes away while it is read.
    if (hasErrno(error, 'ENOENT') || hasErrno(error, 'ENODEV') || hasErrno(error, 'ENXIO'))
      return null;
    throw error;
  }
}
