/**
 * The pinned tools as one folder: what test/e2e/tools/build made of each group, linked together, so that one entry of
 * PATH, or one mount into a guest, has them all. Nothing is built that is in the cache already.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { link, mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';

export const toolGroups = ['kubernetes', 'containerd', 'sidecars', 'helm'] as const;
/** Those that clusters of our own are made of, and what makes one where there is a docker. */
export type ToolGroup = (typeof toolGroups)[number] | 'kind';

export interface Tools {
  /** kube-apiserver, kubelet, kubectl, containerd, ctr, helm, csi-provisioner and so on. */
  readonly directory: string;
  /** Files with the custom resource definitions of volume snapshots. */
  readonly crds: readonly string[];
}

export interface BuildToolsOptions {
  readonly logger: (line: string) => void;
  /** Builds nothing: rejects when something is not in the cache. */
  readonly cachedOnly?: boolean;
}

/** All of it on 2 cores takes about half an hour when nothing is there. */
const buildLimitMs = 90 * 60_000;

export async function buildTools(options: BuildToolsOptions): Promise<Tools> {
  const folders: string[] = [];
  for (const group of toolGroups) folders.push(await buildGroup(group, options));
  const digest = createHash('sha256').update(folders.join('\n')).digest('hex').slice(0, 12);
  const bin = dirname(folders[0] ?? '');
  const directory = join(bin, `tools-${digest}`);
  if (!(await exists(directory))) await linkTogether(folders, directory);
  const crds = await readdir(join(directory, 'crd'));
  return { directory, crds: crds.sort().map((name) => join(directory, 'crd', name)) };
}

/** Prints its progress through the logger, and resolves with the folder of the group. */
export async function buildGroup(group: ToolGroup, options: BuildToolsOptions): Promise<string> {
  const cached = options.cachedOnly === true ? ['--cached'] : [];
  const child = spawn(join(import.meta.dirname, 'build'), [...cached, group], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: buildLimitMs,
  });
  let printed = '';
  let lastLine = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text));
  createInterface(child.stderr).on('line', (line) => {
    lastLine = line;
    options.logger(line);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`the tools of ${group} are not there: ${lastLine}`);
  return printed.trim();
}

/** Whatever bears the name `directory` is complete. Whoever comes second throws its own away. */
async function linkTogether(folders: readonly string[], directory: string): Promise<void> {
  const unfinished = await mkdtemp(join(dirname(directory), '.new-tools-'));
  try {
    for (const folder of folders) await linkAll(folder, unfinished);
    await rename(unfinished, directory);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    if (!(await exists(directory))) throw error;
  }
}

async function linkAll(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, basename(entry.name));
    if (entry.isDirectory()) {
      await mkdir(target);
      await linkAll(source, target);
    } else {
      await link(source, target);
    }
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
