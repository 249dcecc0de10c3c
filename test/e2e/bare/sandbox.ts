/**
 * The namespaces that the bare cluster lives in: network, mounts and processes of its own, and a folder under the
 * temporary one. Ending their first process ends every process in them, and with these go their mounts and devices of
 * the network; the kernel sees to that also when this process is killed. What namespaces do not cover (loop devices
 * and control groups) is removed here, and so is what an earlier run left behind.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { within } from '../support/waiting.ts';
import { run } from './commands.ts';
import { detachOrphanedLoops, makeCgroups, removeCgroups } from './sandbox-kernel.ts';

const prefix = 'vde2e-';
const limitMs = 20_000;

export class Sandbox {
  /** Short, since sockets' paths are limited. */
  readonly folder: string;
  /** The first process, as it is numbered outside. */
  readonly #pid: number;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;

  private constructor(folder: string, child: ChildProcess, pid: number) {
    this.folder = folder;
    this.#child = child;
    this.#pid = pid;
    this.#ended = new Promise((resolve) => child.once('exit', () => resolve()));
  }

  /** Removes what runs left behind that were killed, and starts new ones. */
  static async open(): Promise<Sandbox> {
    await removeLeftovers();
    const folder = await mkdtemp(join(tmpdir(), prefix));
    try {
      await writeFile(join(folder, 'owner'), await markOf(process.pid));
      return await Sandbox.#start(folder);
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  static async #start(folder: string): Promise<Sandbox> {
    // It dies with this process, and its child with it.
    const child = spawn(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL', '--', 'unshare', '--net', '--mount', '--pid', '--fork'],
        ...['--kill-child=KILL', '--mount-proc', '--propagation', 'slave', '--'],
        ...['/bin/sh', join(import.meta.dirname, 'sandbox-init.sh'), folder],
      ],
      { detached: true, stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' },
    );
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
    const ready = new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve());
      child.once('error', reject);
      child.once('exit', () => reject(new Error(`the namespaces do not start: ${errors.trim()}`)));
    });
    await within('the namespaces start', limitMs, ready).catch((error: unknown) => {
      child.kill('SIGKILL');
      throw error;
    });
    const children = await readFile(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8');
    const sandbox = new Sandbox(folder, child, Number(children.trim()));
    await makeCgroups(sandbox.cgroup);
    return sandbox;
  }

  /** What the kubelet puts all pods below. */
  get cgroup(): string {
    return `/${basename(this.folder)}`;
  }

  /** A prefix of commands that shall run in the network only, and keep their files and process numbers. */
  get enterNetwork(): readonly string[] {
    return ['nsenter', `--net=/proc/${this.#pid}/ns/net`, '--'];
  }

  /** A prefix of commands that see the machine's files, and end with the sandbox. */
  get enterWithMachineFiles(): readonly string[] {
    return ['nsenter', '--target', String(this.#pid), '--net', '--pid', '--'];
  }

  /** A prefix of commands that shall run on the node, as it were. */
  get enter(): readonly string[] {
    return ['nsenter', '--target', String(this.#pid), '--net', '--mount', '--pid', '--'];
  }

  /** Ends and removes all. Takes what it can, and never rejects. */
  async close(logger: (line: string) => void): Promise<void> {
    const attempt = async (what: string, action: () => Promise<unknown>): Promise<void> => {
      await action().catch((error: unknown) => logger(`${what}: ${String(error)}`));
    };
    // All but the first: file systems on devices whose daemons are gone can be unmounted, as nothing waits for them.
    await attempt('ending processes', () => run([...this.enter, 'sh', '-c', 'kill -KILL -1'], lax));
    await attempt('unmounting', () => run([...this.enter, 'sh', '-c', unmountAll], lax));
    await attempt('ending the namespaces', async () => {
      this.#child.kill('SIGKILL');
      await within('their end', limitMs, this.#ended);
    });
    await attempt('detaching loop devices', detachOrphanedLoops);
    await attempt('removing control groups', () => removeCgroups(this.cgroup));
    await attempt('removing what pods leave in /dev', removeTerminationLog);
    await attempt('removing the folder', () => removeFolder(this.folder));
  }
}

const unmountAll =
  "cut -d' ' -f2 /proc/self/mounts | grep -E '^/(var/lib|run)/' | tac | xargs -r -n1 umount -l";
const lax = { acceptFailure: true, timeoutMs: limitMs };

/** The process that a folder belongs to: its number, and when it started, as numbers are used again. */
async function markOf(pid: number | string): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // Fields follow the name, which is in parentheses and may have any character (proc_pid_stat(5)): the 22nd of all.
  const started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  return `${pid} ${started}`;
}

/** Of runs that were killed: their processes are gone already, with their namespaces. */
async function removeLeftovers(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(prefix)) continue;
    const folder = join(tmpdir(), name);
    const owner = await readFile(join(folder, 'owner'), 'utf8').catch(() => '');
    if (owner === '' || owner === (await markOf(owner.split(' ')[0] ?? ''))) continue;
    await detachOrphanedLoops();
    await removeCgroups(`/${name}`);
    await removeFolder(folder);
  }
}

/** Never beyond its file system: whatever may be mounted below it stays as it is. */
async function removeFolder(folder: string): Promise<void> {
  await run(['rm', '--recursive', '--force', '--one-file-system', folder], { timeoutMs: 120_000 });
}

/** The machine's /dev is the only folder of it that pods write: containers that have it as theirs get this file. */
async function removeTerminationLog(): Promise<void> {
  const path = '/dev/termination-log';
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() === true && found.size === 0) await rm(path, { force: true });
}
