/** What this machine lets the demo do. */
import { accessSync, constants, readFileSync } from 'node:fs';
import { runCommand } from '../../src/base/command.ts';

/** capabilities(7): their bits. */
const capabilities = { mount: 21n, growMountedExt4: 24n } as const;

const programs = ['qemu-storage-daemon', 'mkfs.xfs', 'mkfs.ext4', 'losetup', 'blkid'];

/** Why block devices can't be attached and mounted; 'root' when another user could; null when they can. */
export async function obstacleToMounts(): Promise<string | null> {
  if (process.env['DEMO'] === 'nbd') return 'DEMO=nbd';
  if (process.platform !== 'linux') return 'This is not Linux';
  if (process.getuid?.() !== 0) return 'root';
  if (!may('mount')) return 'This container may not mount';
  if (!isUsable('/dev/fuse')) return 'This machine has no FUSE';
  if (!isUsable('/dev/loop-control')) return 'This machine has no loop devices';
  if (!(await hasXfs())) return 'This kernel has no XFS';
  for (const program of programs) {
    try {
      await runCommand(program, ['--version'], { timeoutMs: 10_000, acceptExitCodes: [0, 1] });
    } catch {
      return `${program} is not installed`;
    }
  }
  return null;
}

/** Whether this process has what the kernel asks for (CAP_SYS_ADMIN, CAP_SYS_RESOURCE). */
export function may(what: keyof typeof capabilities): boolean {
  const status = readFileSync('/proc/self/status', 'utf8');
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> capabilities[what]) & 1n) === 1n;
}

function isUsable(device: string): boolean {
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** Built in, loaded, or to be loaded. */
async function hasXfs(): Promise<boolean> {
  if (/\bxfs$/m.test(readFileSync('/proc/filesystems', 'utf8'))) return true;
  try {
    await runCommand('modprobe', ['--quiet', 'xfs'], { timeoutMs: 10_000 });
    return true;
  } catch {
    return false;
  }
}
