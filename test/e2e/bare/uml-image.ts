/**
 * The disk that a user-mode-linux node starts with, an ext4: containerd's data, into which a containerd on the host has
 * loaded and unpacked the images, for in the guest that would take minutes; and the node's programs, which start three
 * times as fast from there as from hostfs. It is kept in a cache, by the digest of its contents, and never written by a
 * guest. When images change, the disk that was used last becomes the new one, and gets only what is new.
 */
import { createHash } from 'node:crypto';
import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, readdir, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { runCommand } from '../../../src/base/command.ts';
import { findProcesses } from '../../../src/base/processes.ts';

const sizeBytes = 24 * 1024 ** 3;
const commandMs = 60_000;
const importMs = 240_000;
const startMs = 30_000;
/** Besides the one that is being made. The others, which no run asked for lately, go. */
const kept = 1;
/** Before the number of the process that is at it. */
const draftPrefix = 'draft-';

export interface UmlImageOptions {
  readonly cacheDirectory: string;
  /** Archives with the layout of OCI images. */
  readonly images: readonly string[];
  /** Paths of programs for the node, containerd and ctr among them. */
  readonly programs: readonly string[];
  readonly cniPlugins: readonly string[];
  readonly logger: (line: string) => void;
}

/**
 * Resolves with the path of the disk, made unless it is in the cache. On it are /containerd, containerd's root, and
 * /node/bin and /node/cni.
 */
export async function umlDiskImage(options: UmlImageOptions): Promise<string> {
  const { cacheDirectory, images, programs, cniPlugins } = options;
  await mkdir(cacheDirectory, { recursive: true });
  const digest = await digestOf(images, [...programs, ...cniPlugins]);
  const path = join(cacheDirectory, `disk-${digest}.ext4`);
  if (await exists(path)) {
    // The newest is what was asked for last.
    await runCommand('touch', ['-a', path], { timeoutMs: commandMs });
    return path;
  }
  await removeOld(cacheDirectory);
  const startedMs = performance.now();
  const folder = join(cacheDirectory, `${draftPrefix}${process.pid}`);
  const draft = join(folder, 'disk');
  await mkdir(folder);
  try {
    await startDraft(cacheDirectory, draft);
    await fill(draft, folder, options);
    await rename(draft, path);
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  options.logger(`the disk of the user-mode-linux node is made in ${seconds} s`);
  return path;
}

/** Another disk, so that what both have in common is there already; a new one when there is none. A guest may use it. */
async function startDraft(cacheDirectory: string, draft: string): Promise<void> {
  const [newest] = await disksIn(cacheDirectory);
  if (newest === undefined) {
    await writeFile(draft, '');
    await truncate(draft, sizeBytes);
    const features = ['-E', 'lazy_itable_init=1,lazy_journal_init=1', '-m', '0'];
    await runCommand('mkfs.ext4', ['-q', '-F', ...features, draft], { timeoutMs: commandMs });
  } else {
    const guests = await findProcesses('linux.uml', (args) =>
      args.some((arg) => arg.includes(newest)),
    );
    if (guests.length === 0) await rename(newest, draft);
    else await runCommand('cp', ['--sparse=always', newest, draft], { timeoutMs: importMs });
  }
}

/**
 * Mounts $1 at $2, and runs the rest of its arguments until it gets SIGTERM. In a mount namespace of its own, and ended
 * by the end of this process: so nothing is left, whatever happens.
 */
const holder = `
mount -o loop "$1" "$2" || exit
disk=$2
shift 2
setpriv --pdeathsig KILL -- "$@" &
trap 'kill $!' TERM
wait
wait
sync -f "$disk"
fstrim "$disk"
umount "$disk"
`;

async function fill(draft: string, folder: string, options: UmlImageOptions): Promise<void> {
  const { programs, cniPlugins } = options;
  const mountPoint = join(folder, 'mounted');
  const socket = join(folder, 'containerd.sock');
  const config = join(folder, 'containerd.toml');
  await mkdir(mountPoint);
  await writeFile(config, containerdConfig(folder, mountPoint, socket));
  const command = [named('containerd', programs), '--config', config, '--log-level', 'warn'];
  const child = spawn(
    'setpriv',
    [
      ...['--pdeathsig', 'KILL', '--', 'unshare', '--mount', '--'],
      ...['sh', '-c', holder, 'sh', draft, mountPoint, ...command],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000);
  });
  const ended = new Promise<number | null>((resolve) => {
    child.on('error', (error) => {
      said += error.message;
      resolve(null);
    });
    child.on('exit', resolve);
  });
  try {
    await importImages(socket, options);
    const node = join(`/proc/${child.pid ?? 0}/root`, mountPoint, 'node');
    await copyPrograms(programs, join(node, 'bin'));
    await copyPrograms(cniPlugins, join(node, 'cni'));
  } catch (error) {
    child.kill('SIGTERM');
    throw new Error(`the node's disk cannot be filled: ${said}`, { cause: error });
  } finally {
    child.kill('SIGTERM');
    const limit = setTimeout(() => child.kill('SIGKILL'), commandMs);
    const exitCode = await ended;
    clearTimeout(limit);
    if (exitCode !== 0) throw new Error(`the node's disk cannot be unmounted: ${said}`);
  }
}

/** No more than what stores images. */
function containerdConfig(folder: string, mountPoint: string, socket: string): string {
  return `version = 3
root = "${join(mountPoint, 'containerd')}"
state = "${join(folder, 'state')}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri",
]
[grpc]
  address = "${socket}"
[ttrpc]
  address = "${socket}.ttrpc"
`;
}

async function importImages(socket: string, { images, programs }: UmlImageOptions): Promise<void> {
  const ctr = named('ctr', programs);
  const run = async (...args: string[]): Promise<string> => {
    const all = ['-a', socket, '-n', 'k8s.io', ...args];
    return (await runCommand(ctr, all, { timeoutMs: importMs })).stdout;
  };
  await untilAnswers(() => run('version'));
  const list = async (): Promise<string[]> =>
    (await run('images', 'ls', '-q')).split('\n').filter(Boolean);
  // What belongs to old names only is collected at the end: what new ones share with them is not unpacked again.
  const before = await list();
  if (before.length > 0) await run('images', 'rm', ...before);
  for (const image of images) await run('images', 'import', image);
  const [first] = await list();
  if (first === undefined || before.length === 0) return;
  const collected = 'docker.io/library/collected:now';
  await run('images', 'tag', first, collected);
  await run('images', 'rm', '--sync', collected);
}

async function copyPrograms(paths: readonly string[], folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  for (const path of paths) await copyFile(path, join(folder, basename(path)));
}

function named(name: string, programs: readonly string[]): string {
  const path = programs.find((each) => basename(each) === name);
  if (path === undefined) throw new Error(`${name} is not among the node's programs`);
  return path;
}

async function untilAnswers(ask: () => Promise<unknown>): Promise<void> {
  const endMs = performance.now() + startMs;
  for (;;) {
    try {
      await ask();
      return;
    } catch (error) {
      if (performance.now() > endMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Disks that were not asked for lately, and what killed runs left. */
async function removeOld(cacheDirectory: string): Promise<void> {
  for (const old of (await disksIn(cacheDirectory)).slice(kept)) await rm(old, { force: true });
  for (const name of await readdir(cacheDirectory)) {
    if (!name.startsWith(draftPrefix)) continue;
    const owner = name.slice(draftPrefix.length);
    if (await exists(`/proc/${owner}`)) continue;
    await rm(join(cacheDirectory, name), { recursive: true, force: true });
  }
}

/** The one that was asked for last comes first. */
async function disksIn(cacheDirectory: string): Promise<string[]> {
  const names = (await readdir(cacheDirectory)).filter((name) => name.startsWith('disk-'));
  const disks = await Promise.all(
    names.map(async (name) => {
      const path = join(cacheDirectory, name);
      return { path, atimeMs: (await stat(path)).atimeMs };
    }),
  );
  return disks.toSorted((a, b) => b.atimeMs - a.atimeMs).map(({ path }) => path);
}

async function digestOf(images: readonly string[], files: readonly string[]): Promise<string> {
  const digest = createHash('sha256').update(String(sizeBytes));
  for (const image of images) {
    // An archive's index has the digests of all that is in it, and the archive itself when it was made.
    const options = { timeoutMs: commandMs };
    digest.update((await runCommand('tar', ['-xOf', image, 'index.json'], options)).stdout);
  }
  for (const path of files) {
    const one = createHash('sha256');
    await pipeline(createReadStream(path), one);
    digest.update(basename(path)).update(one.digest());
  }
  return digest.digest('hex').slice(0, 16);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
