/**
 * The disk that a user-mode-linux node starts with, an ext4: containerd's data, into which a containerd on the host has
 * loaded and unpacked the images, for in the guest that would take minutes; and the node's programs, which start three
 * times as fast from there as from hostfs. It is kept in a cache, by the digest of its contents, and never written by a
 * guest. When images change, a copy of the disk that was used last gets only what is new.
 */
import { createHash, randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { runCommand } from '../../../src/base/command.ts';

const sizeBytes = 24 * 1024 ** 3;
const commandMs = 60_000;
const importMs = 240_000;
const startMs = 30_000;
/** Disks that no run asked for lately go. */
const kept = 2;

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
  const digest = await digestOf([...images, ...programs, ...cniPlugins]);
  const path = join(cacheDirectory, `disk-${digest}.ext4`);
  if (await exists(path)) {
    // The newest is what was asked for last.
    await runCommand('touch', ['-a', path], { timeoutMs: commandMs });
    return path;
  }
  const startedMs = performance.now();
  const draft = join(cacheDirectory, `draft-${randomBytes(6).toString('hex')}`);
  try {
    await startDraft(cacheDirectory, draft);
    await fill(draft, options);
    await rename(draft, path);
  } finally {
    await rm(draft, { force: true });
  }
  for (const old of (await disksIn(cacheDirectory)).slice(kept)) await rm(old, { force: true });
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  options.logger(`the disk of the user-mode-linux node is made in ${seconds} s`);
  return path;
}

/** Another disk, so that what both have in common is there already; a new one when there is none. */
async function startDraft(cacheDirectory: string, draft: string): Promise<void> {
  const [newest] = await disksIn(cacheDirectory);
  if (newest === undefined) {
    await writeFile(draft, '');
    await truncate(draft, sizeBytes);
    const features = ['-E', 'lazy_itable_init=1,lazy_journal_init=1', '-m', '0'];
    await runCommand('mkfs.ext4', ['-q', '-F', ...features, draft], { timeoutMs: commandMs });
  } else {
    await runCommand('cp', ['--sparse=always', newest, draft], { timeoutMs: importMs });
  }
}

async function fill(draft: string, options: UmlImageOptions): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'uml-disk-'));
  const mountPoint = join(folder, 'disk');
  await mkdir(mountPoint);
  try {
    await runCommand('mount', ['-o', 'loop', draft, mountPoint], { timeoutMs: commandMs });
    await importImages(folder, mountPoint, options);
    await copyPrograms(options.programs, join(mountPoint, 'node/bin'));
    await copyPrograms(options.cniPlugins, join(mountPoint, 'node/cni'));
    await runCommand('fstrim', [mountPoint], { timeoutMs: commandMs }).catch(() => undefined);
  } finally {
    await runCommand('umount', [mountPoint], { timeoutMs: commandMs, acceptExitCodes: [0, 32] });
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

async function importImages(
  folder: string,
  mountPoint: string,
  { images, programs }: UmlImageOptions,
): Promise<void> {
  const socket = join(folder, 'containerd.sock');
  const config = join(folder, 'containerd.toml');
  // No more than the storing of images.
  await writeFile(
    config,
    `version = 3
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
`,
  );
  const daemon = spawn(named('containerd', programs), ['--config', config, '--log-level', 'warn'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  daemon.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000);
  });
  const ended = new Promise<void>((resolve) => {
    daemon.on('error', (error) => {
      said += error.message;
      resolve();
    });
    daemon.on('exit', () => {
      resolve();
    });
  });
  const run = (...args: string[]): Promise<{ stdout: string }> =>
    runCommand(named('ctr', programs), ['-a', socket, '-n', 'k8s.io', ...args], {
      timeoutMs: importMs,
    });
  try {
    await untilAnswers(() => run('version'));
    const before = new Set((await run('images', 'ls', '-q')).stdout.split('\n').filter(Boolean));
    for (const image of images) {
      const { stdout } = await run('images', 'import', image);
      for (const name of before) if (stdout.includes(name)) before.delete(name);
    }
    if (before.size > 0) await run('images', 'rm', '--sync', ...before);
  } catch (error) {
    throw new Error(`images cannot be loaded: ${said}`, { cause: error });
  } finally {
    daemon.kill('SIGTERM');
    const limit = setTimeout(() => daemon.kill('SIGKILL'), startMs);
    await ended;
    clearTimeout(limit);
  }
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

async function digestOf(paths: readonly string[]): Promise<string> {
  const digest = createHash('sha256');
  digest.update(String(sizeBytes));
  for (const path of paths) {
    const one = createHash('sha256');
    await pipeline(createReadStream(path), one);
    digest.update(one.digest());
  }
  return digest.digest('hex').slice(0, 16);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
