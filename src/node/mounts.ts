/**
 * Mounts on this node, through mount(8), umount(8) and mountinfo. Every command has a time limit, and whatever
 * may touch a mounted filesystem runs in a child process: a hung filesystem then costs a child, never one of this
 * process's few I/O threads. Mount options may hold secrets: they appear in no message.
 */
import { readFile, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { hasErrno } from '../base/errno.ts';
import { describeError } from '../base/logger.ts';
import { commandErrorOf, type RunCommand } from '../volumes/command.ts';
import type { DeviceState } from '../volumes/device-service.ts';
import { hasCode, toVolumeError, VolumeError } from '../volumes/errors.ts';
import { isShutDown, parseMountinfo, type MountEntry } from './mountinfo.ts';

export interface DeviceMount {
  readonly device: string;
  readonly path: string;
  readonly fsType: string;
  readonly options: readonly string[];
}

export interface BindMount {
  readonly source: string;
  readonly path: string;
  readonly readOnly: boolean;
}

/** statfs(2): bytes and inodes. `available` is what an unprivileged user may still take. */
export interface FilesystemUsage {
  readonly bytes: { total: number; used: number; available: number };
  readonly inodes: { total: number; used: number; available: number };
}

/** What somebody says of a mount to be removed who knows the device under it; the filesystem reads what is cached. */
export interface UnmountAdvice {
  /**
   * Asked while a process uses the mount: that process waits in vain when the device is broken, or waits for longer
   * than an unmount may take.
   */
  deviceState(): Promise<DeviceState>;
  /** Told before a mount is taken off its path under its users, or with its unmount hanging. Rejects to forbid that. */
  beforeLazy(why: string): Promise<void>;
}

/** broken: it answers with an error such as ENOTCONN or EIO. hung: it does not answer in time. */
export type MountHealth = 'usable' | 'broken' | 'hung';

export interface Mounts {
  /** What is mounted at exactly this path, the topmost last. */
  at(path: string): Promise<MountEntry[]>;
  /** Where the filesystem of this block device ("major:minor") is mounted. */
  ofDevice(device: string): Promise<MountEntry[]>;
  /** Rejects with INTERNAL when mount(8) refuses. */
  mountDevice(mount: DeviceMount): Promise<void>;
  bind(mount: BindMount): Promise<void>;
  /**
   * Unmounts everything at the path; nothing to do when there is nothing. A filesystem that hangs, that cannot be
   * unmounted because it is broken, or of which `advice` says so, is detached from the path lazily. VOLUME_IN_USE when
   * a process uses it.
   */
  unmountAll(path: string, advice?: UnmountAdvice): Promise<void>;
  health(path: string): Promise<MountHealth>;
  /** UNAVAILABLE when the filesystem does not answer in time. */
  usage(path: string): Promise<FilesystemUsage>;
}

export interface MountLimits {
  readonly mountMs: number;
  readonly unmountMs: number;
  /** For commands that only look. */
  readonly lookMs: number;
}

export const defaultMountLimits: MountLimits = {
  mountMs: 60_000,
  unmountMs: 30_000,
  lookMs: 5_000,
};

/** More mounts than this on one path are somebody's mistake that we do not clean up. */
const stackedMountsMax = 32;
/** Detaching takes no I/O. */
const lazyUnmountMs = 10_000;
/** Between two looks at a device that may come back. */
const waitingPollMs = 500;

export class LinuxMounts implements Mounts {
  readonly #run: RunCommand;
  readonly #limits: MountLimits;

  constructor(run: RunCommand, limits: MountLimits = defaultMountLimits) {
    this.#run = run;
    this.#limits = limits;
  }

  async at(path: string): Promise<MountEntry[]> {
    const wanted = await canonicalPath(path);
    return (await readMounts()).filter((entry) => entry.mountPoint === wanted);
  }

  async ofDevice(device: string): Promise<MountEntry[]> {
    return (await readMounts()).filter((entry) => entry.device === device);
  }

  async mountDevice(mount: DeviceMount): Promise<void> {
    const { device, path, fsType, options } = mount;
    const optionArgs = options.length === 0 ? [] : ['-o', options.join(',')];
    try {
      await this.#run('mount', ['-t', fsType, ...optionArgs, device, path], {
        timeoutMs: this.#limits.mountMs,
      });
    } catch (error) {
      throw withoutSecrets(error, `mount ${device} at ${path}`, options);
    }
  }

  async bind(mount: BindMount): Promise<void> {
    const { source, path, readOnly } = mount;
    const limit = { timeoutMs: this.#limits.mountMs };
    await this.#run('mount', ['--bind', source, path], limit);
    if (!readOnly) return;
    // The kernel ignores `ro` while it makes a bind mount: only remounting it sets the flag.
    try {
      await this.#run('mount', ['-o', 'remount,bind,ro', path], limit);
    } catch (error) {
      await this.unmountAll(path);
      throw error;
    }
  }

  async unmountAll(path: string, advice?: UnmountAdvice): Promise<void> {
    const canonical = await canonicalPath(path);
    for (let round = 0; round < stackedMountsMax; round += 1) {
      const entries = await this.at(canonical);
      if (entries.length === 0) return;
      await this.#unmountTop(canonical, advice);
    }
    throw new VolumeError(
      'INTERNAL',
      `unmount ${path}: still mounted after ${stackedMountsMax} rounds`,
    );
  }

  async #unmountTop(path: string, advice: UnmountAdvice | undefined): Promise<void> {
    const why = await this.#unmountOrWhyNot(path, advice);
    if (why === null) return;
    await advice?.beforeLazy(why);
    try {
      await this.#run('umount', ['--lazy', path], { timeoutMs: lazyUnmountMs });
    } catch (error) {
      // One that hangs may have taken the mount off the path already, and hang in writing what is left.
      if (!isNotMounted(error)) throw error;
    }
  }

  /** Null when it is unmounted, else why that will not happen. */
  async #unmountOrWhyNot(path: string, advice: UnmountAdvice | undefined): Promise<string | null> {
    const giveUpMs = systemClock.monotonicMs() + this.#limits.unmountMs;
    for (;;) {
      const failure = await this.#tryUnmount(path);
      if (failure === null) return null;
      if (!(commandErrorOf(failure)?.stderr ?? '').includes('busy')) return describeError(failure);
      const state = (await advice?.deviceState()) ?? 'attached';
      if (state === 'broken') return 'a process uses it, whose I/O fails';
      if (state === 'attached') {
        if (await this.#isGone(path)) return 'a process uses it, and its filesystem does not work';
        throw new VolumeError('VOLUME_IN_USE', `unmount ${path}: a process still uses it`, {
          cause: failure,
        });
      }
      if (systemClock.monotonicMs() > giveUpMs) return 'a process uses it, and its device waits';
      await systemClock.sleep(waitingPollMs);
    }
  }

  /** Null when nothing is mounted there any more. */
  async #tryUnmount(path: string): Promise<unknown> {
    try {
      await this.#run('umount', [path], { timeoutMs: this.#limits.unmountMs });
      return null;
    } catch (error) {
      return isNotMounted(error) ? null : error;
    }
  }

  /** A broken or hung filesystem counts as busy forever; waiting for its users would wait in vain. */
  async #isGone(path: string): Promise<boolean> {
    return (await this.health(path)) !== 'usable';
  }

  async health(path: string): Promise<MountHealth> {
    if ((await this.at(path)).some(isShutDown)) return 'broken';
    try {
      // Opens and reads the directory: a mere stat is answered from memory even when the device is dead.
      const args = [path, '-maxdepth', '1', '-mindepth', '1', '-print', '-quit'];
      await this.#run('find', args, { timeoutMs: this.#limits.lookMs });
      return 'usable';
    } catch (error) {
      if (hasCode(error, 'UNAVAILABLE')) return 'hung';
      if (commandErrorOf(error)?.failure === 'failed') return 'broken';
      throw error;
    }
  }

  async usage(path: string): Promise<FilesystemUsage> {
    const { stdout } = await this.#run('stat', ['-f', '-c', '%S %b %f %a %c %d', path], {
      timeoutMs: this.#limits.lookMs,
    });
    const numbers = stdout.trim().split(' ').map(Number);
    const [blockBytes, blocks, free, available, inodes, inodesFree] = numbers;
    if (
      blockBytes === undefined ||
      blocks === undefined ||
      free === undefined ||
      available === undefined ||
      inodes === undefined ||
      inodesFree === undefined ||
      !numbers.every(Number.isSafeInteger)
    ) {
      throw new VolumeError('INTERNAL', `statfs ${path}: stat printed something unexpected`);
    }
    return {
      bytes: {
        total: blocks * blockBytes,
        used: (blocks - free) * blockBytes,
        available: available * blockBytes,
      },
      inodes: { total: inodes, used: inodes - inodesFree, available: inodesFree },
    };
  }
}

function isNotMounted(error: unknown): boolean {
  const said = commandErrorOf(error)?.stderr ?? '';
  return said.includes('not mounted') || said.includes('no mount point');
}

async function readMounts(): Promise<MountEntry[]> {
  return parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
}

/**
 * The path as mountinfo shows it. The last part is left alone: it may be a mount that hangs, and the folder that
 * holds it is the host's.
 */
async function canonicalPath(path: string): Promise<string> {
  try {
    return join(await realpath(dirname(path)), basename(path));
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return path;
    throw error;
  }
}

/** mount(8) and the kernel like to repeat an option that they reject. The cause is dropped for the same reason. */
function withoutSecrets(error: unknown, what: string, options: readonly string[]): VolumeError {
  const failed = commandErrorOf(error);
  if (failed === undefined) return new VolumeError('INTERNAL', `${what}: mount could not be run`);
  let said = failed.stderr.trim() === '' ? failed.message : failed.stderr.trim();
  for (const option of options) {
    const value = option.slice(option.indexOf('=') + 1);
    for (const secret of [option, value].filter((text) => text.length > 2)) {
      said = said.replaceAll(secret, '***');
    }
  }
  return new VolumeError(toVolumeError(error, what).code, `${what}: ${said}`);
}
