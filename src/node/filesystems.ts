/**
 * The filesystems that a volume can carry, through their own tools. Making one is the only destructive step of
 * this driver, so nothing here decides on it: `format` is called by prepare-filesystem.ts alone, for volumes that the
 * volumedriver knows to be unwritten. Probing answers or fails; "nothing found" is never a permission.
 */
import type { FilesystemType } from '../csi/volume-capability.ts';
import { commandErrorOf, type CommandResult, type RunCommand } from '../volumes/command.ts';
import { VolumeError } from '../volumes/errors.ts';

export interface Filesystem {
  readonly bytesMin: number;
  /** Always given to mount. */
  readonly mountOptions: readonly string[];
  /** Lets a read-only device be mounted although its journal was not replayed. */
  readonly withoutReplayOption: string;
  format(device: string): Promise<void>;
  /** Before a writable mount. CORRUPT when a person has to repair it. */
  check(device: string): Promise<void>;
  /** Grows an unmounted filesystem to its device where it can; others wait for growMounted. */
  growUnmounted(device: string, sizeBytes: number): Promise<void>;
  /** Grows a mounted filesystem to its device. Nothing to do when it fills it. */
  growMounted(mounted: { device: string; path: string; sizeBytes: number }): Promise<void>;
}

/** Allows for the largest volumes; a command that takes longer hangs. */
const formatMs = 5 * 60_000;
const checkMs = 15 * 60_000;
const growMs = 15 * 60_000;
const probeMs = 30_000;

/**
 * A filesystem may leave the end of its device unused: ext4 drops a last block group, xfs a last allocation group
 * that would be too small. Less than this is not worth growing for.
 */
const slackBytesMax = 4 * 1024 * 1024;
const mebibyte = 1024 * 1024;

/**
 * What the device holds, as blkid names it ("ext4", "crypto_LUKS", "gpt" for a partition table); undefined when
 * nothing is recognized, which does not mean that nothing is there. Rejects when the device cannot be read.
 */
export async function probeDevice(run: RunCommand, device: string): Promise<string | undefined> {
  const result = await run('blkid', ['--probe', '--output', 'export', device], {
    timeoutMs: probeMs,
    acceptExitCodes: [0, 2, 8],
  });
  if (result.exitCode === 8) {
    throw new VolumeError('CORRUPT', `probe ${device}: it looks like several filesystems at once`);
  }
  if (result.exitCode === 2 && result.stderr.trim() !== '') {
    throw new VolumeError('UNAVAILABLE', `probe ${device}: ${result.stderr.trim()}`);
  }
  const found = new Map<string, string>();
  for (const line of result.stdout.split('\n')) {
    const equals = line.indexOf('=');
    if (equals > 0) found.set(line.slice(0, equals), line.slice(equals + 1));
  }
  return found.get('TYPE') ?? found.get('PTTYPE');
}

export function createFilesystems(run: RunCommand): Readonly<Record<FilesystemType, Filesystem>> {
  return { ext4: new Ext4(run), xfs: new Xfs(run) };
}

class Ext4 implements Filesystem {
  readonly bytesMin = mebibyte;
  readonly mountOptions = [];
  readonly withoutReplayOption = 'noload';
  readonly #run: RunCommand;

  constructor(run: RunCommand) {
    this.#run = run;
  }

  async format(device: string): Promise<void> {
    // A fresh volume reads as zeroes, so discarding it first and zeroing inode tables and journal is wasted work.
    const extended = 'nodiscard,lazy_itable_init=1,lazy_journal_init=1';
    const args = ['-F', '-q', '-b', '4096', '-m', '0', '-E', extended, device];
    await this.#run('mkfs.ext4', args, { timeoutMs: formatMs });
  }

  /** Preens as the system does at boot: replays the journal, repairs what is safe, stops at anything else. */
  async check(device: string): Promise<void> {
    await this.#preen(device, []);
  }

  async growUnmounted(device: string, sizeBytes: number): Promise<void> {
    if (!(await this.#isSmallerThan(device, sizeBytes))) return;
    // resize2fs insists on a full check first.
    await this.#preen(device, ['-f']);
    await this.#run('resize2fs', [device], { timeoutMs: growMs });
  }

  async growMounted(mounted: { device: string; sizeBytes: number }): Promise<void> {
    if (!(await this.#isSmallerThan(mounted.device, mounted.sizeBytes))) return;
    try {
      await this.#run('resize2fs', [mounted.device], { timeoutMs: growMs });
    } catch (error) {
      if (!(commandErrorOf(error)?.stderr ?? '').includes('Permission denied')) throw error;
      throw new VolumeError(
        'VOLUME_IN_USE',
        `grow ext4 on ${mounted.device}: the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE; ` +
          'give the node plugin that capability, or stage the volume again: it then grows before it is mounted',
        { cause: error },
      );
    }
  }

  async #preen(device: string, more: readonly string[]): Promise<void> {
    // e2fsck(8): 1 corrected, 2 corrected and a reboot advised (for a mounted root), 4 left uncorrected.
    const result = await this.#run('e2fsck', ['-p', ...more, device], {
      timeoutMs: checkMs,
      acceptExitCodes: [0, 1, 2, 3, 4, 5, 6, 7],
    });
    if ((result.exitCode & 4) === 0) return;
    throw new VolumeError(
      'CORRUPT',
      `check ext4 on ${device}: e2fsck found damage that a person must decide on: ${lastLines(result)}`,
    );
  }

  async #isSmallerThan(device: string, sizeBytes: number): Promise<boolean> {
    const { stdout } = await this.#run('dumpe2fs', ['-h', device], { timeoutMs: probeMs });
    const blocks = Number(/^Block count:\s+(\d+)$/m.exec(stdout)?.[1]);
    const blockBytes = Number(/^Block size:\s+(\d+)$/m.exec(stdout)?.[1]);
    return isWorthGrowing(blocks * blockBytes, sizeBytes, `ext4 on ${device}`);
  }
}

class Xfs implements Filesystem {
  /** mkfs.xfs refuses less. */
  readonly bytesMin = 300 * mebibyte;
  // A clone or restored snapshot has its source's UUID, and xfs refuses to mount the same UUID twice on a node.
  readonly mountOptions = ['nouuid'];
  readonly withoutReplayOption = 'norecovery';
  readonly #run: RunCommand;

  constructor(run: RunCommand) {
    this.#run = run;
  }

  async format(device: string): Promise<void> {
    await this.#run('mkfs.xfs', ['-f', '-q', '-K', '-s', 'size=4096', device], {
      timeoutMs: formatMs,
    });
  }

  /** The kernel replays the log as it mounts; xfs_repair may throw the log away, so it is left to people. */
  check(): Promise<void> {
    return Promise.resolve();
  }

  /** xfs grows only while it is mounted. */
  growUnmounted(): Promise<void> {
    return Promise.resolve();
  }

  async growMounted(mounted: { path: string; sizeBytes: number }): Promise<void> {
    const { stdout } = await this.#run('xfs_growfs', ['-n', mounted.path], { timeoutMs: probeMs });
    const data = /^data\s+=\s+bsize=(\d+)\s+blocks=(\d+)/m.exec(stdout);
    const nowBytes = Number(data?.[1]) * Number(data?.[2]);
    if (!isWorthGrowing(nowBytes, mounted.sizeBytes, `xfs at ${mounted.path}`)) return;
    await this.#run('xfs_growfs', ['-d', mounted.path], { timeoutMs: growMs });
  }
}

function isWorthGrowing(nowBytes: number, deviceBytes: number, what: string): boolean {
  if (!Number.isSafeInteger(nowBytes)) {
    throw new VolumeError('INTERNAL', `measure ${what}: its tool printed no size`);
  }
  return deviceBytes - nowBytes > slackBytesMax;
}

function lastLines(result: CommandResult): string {
  return `${result.stdout}\n${result.stderr}`.trim().split('\n').slice(-4).join('; ');
}
