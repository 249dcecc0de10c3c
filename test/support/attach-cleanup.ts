/**
 * A folder for tests that attach devices, and the end of everything that lives in it: mounts, loop devices, FUSE
 * daemons and other processes that name the folder in their arguments. Works from what the kernel shows, so that
 * it also cleans up after a test that failed anywhere.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, readFile, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import { listMounts } from '../../src/attacher/mounts.ts';

export class AttachSandbox {
  readonly path: string;
  readonly #children = new Set<ChildProcess>();

  private constructor(path: string) {
    this.path = path;
  }

  static async open(): Promise<AttachSandbox> {
    return new AttachSandbox(await realpath(await mkdtemp(join(tmpdir(), 'attach-'))));
  }

  /** Starts a program that ends with the sandbox at the latest; its output goes to `onOutput`. */
  spawn(program: string, args: string[], onOutput?: (text: string) => void): ChildProcess {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.setEncoding('utf8').on('data', (text: string) => onOutput?.(text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => onOutput?.(text));
    child.on('error', (error) => onOutput?.(`${program}: ${error.message}`));
    this.#children.add(child);
    child.on('close', () => this.#children.delete(child));
    return child;
  }

  /** Whatever of the folder the kernel still holds: mounts, loop devices, FUSE daemons. */
  async leftovers(): Promise<string[]> {
    const mounts = (await this.#mounts()).map((path) => `mount ${path}`);
    const loops = (await this.#loops()).map((path) => `loop ${path}`);
    const daemons = (await this.#processes('qemu-storage-da')).map((pid) => `daemon ${pid}`);
    return [...mounts, ...loops, ...daemons];
  }

  async close(): Promise<void> {
    // Filesystems first, as long as their devices may work; lazily, so that nothing waits.
    for (const path of (await this.#mounts()).reverse()) {
      if (!path.startsWith(`${this.path}/state/`)) await unmountLazily(path);
    }
    for (const pid of await this.#processes('qemu-storage-da')) killNow(pid);
    for (const device of await this.#loops()) {
      await runCommand('losetup', ['--detach', device], {
        timeoutMs: 5000,
        acceptExitCodes: [0, 1],
      });
    }
    for (const path of (await this.#mounts()).reverse()) await unmountLazily(path);
    for (const child of this.#children) child.kill('SIGKILL');
    for (const pid of await this.#processes(null)) killNow(pid);
    await this.#until(
      async () => this.#children.size === 0 && (await this.leftovers()).length === 0,
    );
    const left = await this.leftovers();
    if (left.length > 0) throw new Error(`the test left behind: ${left.join(', ')}`);
    await rm(this.path, { recursive: true, force: true });
  }

  async #until(question: () => Promise<boolean>): Promise<void> {
    for (let attempt = 0; attempt < 100 && !(await question()); attempt++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #mounts(): Promise<string[]> {
    const mounts = await listMounts();
    return mounts
      .map(({ mountpoint }) => mountpoint)
      .filter((path) => path.startsWith(`${this.path}/`));
  }

  async #loops(): Promise<string[]> {
    const found: string[] = [];
    for (const name of await readdir('/sys/block')) {
      if (!name.startsWith('loop')) continue;
      const backing = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(
        () => '',
      );
      if (backing.startsWith(`${this.path}/`)) found.push(`/dev/${name}`);
    }
    return found;
  }

  /** Processes, other than this one, that name the folder; only those called `comm` unless it is null. */
  async #processes(comm: string | null): Promise<number[]> {
    const found: number[] = [];
    for (const entry of await readdir('/proc')) {
      const pid = Number(entry);
      if (!Number.isInteger(pid) || pid === process.pid) continue;
      if (comm !== null && (await readProc(pid, 'comm')).trimEnd() !== comm) continue;
      if ((await readProc(pid, 'cmdline')).includes(`${this.path}/`)) found.push(pid);
    }
    return found;
  }
}

async function unmountLazily(path: string): Promise<void> {
  const args = ['--lazy', '--internal-only', '--no-canonicalize', path];
  await runCommand('umount', args, { timeoutMs: 5000, acceptExitCodes: [0, 1, 32] });
}

async function readProc(pid: number, name: string): Promise<string> {
  return await readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => '');
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended by itself.
  }
}
