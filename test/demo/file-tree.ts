/**
 * A real tree of files for the story: the source of this project and of some packages that it was built with. All work
 * on files is done by ordinary programs with a time limit, since a volume that does not answer would block us, too.
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { runCommand } from '../../src/base/command.ts';

const root = resolve(import.meta.dirname, '../..');
const limitMs = 90_000;

const parts = [
  'src',
  ...['typescript', '@typescript-eslint', '@babel', 'caniuse-lite', 'eslint', '@grpc', 'zod'].map(
    (name) => `node_modules/${name}`,
  ),
].filter((part) => existsSync(join(root, part)));

export interface TreeSummary {
  readonly files: number;
  readonly bytes: number;
}

/** Packs the tree into an archive, unpacks it into `folder` to compare with, and says what is in it. */
export async function packTree(archive: string, folder: string): Promise<TreeSummary> {
  // Exit code 1: somebody edits a file meanwhile. What is in the archive counts.
  await run('tar', ['--create', '--file', archive, '--directory', root, ...parts], [0, 1]);
  await run('tar', ['--extract', '--file', archive, '--directory', folder]);
  const sizes = await run('find', [folder, '-type', 'f', '-printf', '%s\\n']);
  const bytes = sizes.trimEnd().split('\n').map(Number);
  return { files: bytes.length, bytes: bytes.reduce((sum, size) => sum + size, 0) };
}

/** Unpacks it, and asks the filesystem to make it durable. */
export async function unpackTree(archive: string, folder: string): Promise<void> {
  await run('tar', ['--extract', '--file', archive, '--directory', folder]);
  await run('sync', ['--file-system', folder]);
}

/** One checksum over the names and contents of all files. */
export async function checksumTree(folder: string): Promise<string> {
  const script =
    'cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum';
  const text = await run('sh', ['-c', script, 'sh', folder]);
  const checksum = /^[0-9a-f]{64}/.exec(text)?.[0];
  if (checksum === undefined) throw new Error(`no checksum of ${folder}`);
  return checksum;
}

/** What somebody does who should not: removes a folder, overwrites files, adds one. */
export async function vandalize(folder: string): Promise<string> {
  const [first = 'src', ...others] = parts;
  await run('rm', ['-r', join(folder, first)]);
  const overwrite = 'for file; do echo gone >"$file"; done';
  const folders = others.map((part) => join(folder, part));
  await run('find', [...folders, '-name', '*.md', '-exec', 'sh', '-c', overwrite, 'sh', '{}', '+']);
  await run('sh', ['-c', 'echo "It was like this before." >"$1"', 'sh', join(folder, 'note')]);
  await run('sync', ['--file-system', folder]);
  return `${first}/ is removed, every .md file overwritten, one file added`;
}

export async function removeFile(path: string): Promise<void> {
  await run('rm', [path]);
}

/** The size of the filesystem at `folder`, as df tells it. */
export async function filesystemMebibytes(folder: string): Promise<number> {
  const text = await run('df', ['--block-size=1M', '--output=size', folder]);
  return Number(text.trim().split('\n').at(-1));
}

async function run(
  command: string,
  args: readonly string[],
  acceptExitCodes: readonly number[] = [0],
): Promise<string> {
  const { stdout } = await runCommand(command, args, { timeoutMs: limitMs, acceptExitCodes });
  return stdout;
}
