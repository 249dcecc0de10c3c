/**
 * The product's image, from its Dockerfile, by buildah(1): as root, without a daemon and without containers
 * (isolation chroot), on a base that mmdebstrap made. Its layers are cached, so that a change of the sources compiles
 * and packs only.
 */
import { createHash } from 'node:crypto';
import { globSync, readFileSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { mustRun, runCommand } from '../support/commands.ts';
import { debianSuite, makeDebianRoot, type DebianRoot } from './debian-root.ts';
import { aptConfiguration, npmConfiguration } from './host-settings.ts';
import { cacheFolder, ImageCache, shortDigest } from './image-cache.ts';
import { nameLayout, packLayout } from './oci-layout.ts';
import type { BuiltImage, Logger } from './built-image.ts';

const root = resolve(import.meta.dirname, '../../..');
const repository = 'docker.io/library/volumedriver-csi';
/** As much as the Dockerfile may expect of a base: see `debian:13-slim`. */
const base: DebianRoot = { variant: 'minbase', packages: [] };
const buildLimitMs = 20 * 60_000;
/** Each change of the sources adds about five; what is never used again is thrown away with all the rest. */
const cachedImagesMax = 300;

export async function buildProduct(cache: ImageCache, logger: Logger): Promise<BuiltImage> {
  const { version } = z
    .object({ version: z.string() })
    .parse(JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')));
  const digest = shortDigest(debianSuite, base, version, inputDigest(root));
  const reference = `${repository}:e2e-${digest}`;
  const archive = await cache.archive('product', digest, async (path, folder) => {
    const buildah = new Buildah(join(cache.folder, 'buildah'));
    await buildah.prepare();
    const baseName = await buildah.import(await buildBase(logger), 'volumedriver-csi-base');
    logger('product: building the Dockerfile');
    await buildah.build(reference, folder, { BASE_IMAGE: baseName, VERSION: version });
    const layout = join(folder, 'layout');
    await buildah.run(['push', '--quiet', reference, `oci:${layout}:product`]);
    await nameLayout(layout, reference);
    await packLayout(layout, path);
  });
  return { reference, archive };
}

/** The tar archive of the base. Made once: newer packages are taken when the cache is removed. */
async function buildBase(logger: Logger): Promise<string> {
  const cache = new ImageCache(cacheFolder('base'));
  const name = `debian-${debianSuite}`;
  return await cache.archive(name, shortDigest(base), async (path, folder) => {
    logger(`product: making a base of Debian ${debianSuite}`);
    const tar = join(folder, 'base.tar');
    await makeDebianRoot(base, tar);
    await rename(tar, path);
  });
}

/** Over all files that the build sees: those that .dockerignore lets through, and the Dockerfile. */
export function inputDigest(folder: string): string {
  const rules = readFileSync(join(folder, '.dockerignore'), 'utf8').split('\n');
  const roots = rules.filter((rule) => rule.startsWith('!')).map((rule) => rule.slice(1));
  const patterns = roots.flatMap((path) => [path, `${path}/**`]);
  const files = globSync(patterns, { cwd: folder, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.test.ts'))
    .map((entry) => join(entry.parentPath, entry.name));
  const hash = createHash('sha256');
  for (const file of [join(folder, 'Dockerfile'), ...files.sort()]) {
    const bytes = readFileSync(file);
    hash.update(`${file.slice(folder.length)} ${bytes.length}\n`).update(bytes);
  }
  return hash.digest('hex');
}

/** buildah with a storage of its own. */
class Buildah {
  readonly #folder: string;
  readonly #global: readonly string[];

  constructor(folder: string) {
    this.#folder = folder;
    const storage = ['--root', join(folder, 'storage'), '--runroot', join(folder, 'run')];
    this.#global = [...storage, '--storage-driver', 'overlay'];
  }

  /** Takes away what a build left that was killed: containers, and notes of mounts that are no more. */
  async prepare(): Promise<void> {
    await rm(join(this.#folder, 'run'), { recursive: true, force: true });
    await mkdir(join(this.#folder, 'tmp'), { recursive: true });
    await this.run(['rm', '--all']);
    const images = (await this.run(['images', '--all', '--quiet'])).trim().split('\n');
    if (images.length > cachedImagesMax) await this.run(['rmi', '--all', '--force']);
  }

  /** Makes a tar archive of a root filesystem an image, unless it is one already; resolves with its name. */
  async import(tar: string, name: string): Promise<string> {
    const digest = /-([0-9a-f]{12})\.tar$/.exec(tar)?.[1] ?? 'latest';
    const reference = `localhost/${name}:${debianSuite}-${digest}`;
    const found = await runCommand(this.#command(['inspect', '--type', 'image', reference]));
    if (found.code === 0) return reference;
    const container = (await this.run(['from', 'scratch'])).trim();
    await this.run(['add', '--quiet', container, tar, '/']);
    await this.run(['commit', '--quiet', '--rm', container, reference]);
    return reference;
  }

  async build(
    reference: string,
    folder: string,
    buildArguments: Readonly<Record<string, string>>,
  ): Promise<void> {
    const apt = join(folder, 'apt.conf');
    const npmrc = join(folder, 'npmrc');
    await writeFile(apt, await aptConfiguration());
    await writeFile(npmrc, await npmConfiguration());
    await this.run([
      'build',
      '--isolation=chroot',
      '--layers',
      '--format=oci',
      `--secret=id=apt,src=${apt}`,
      `--secret=id=npmrc,src=${npmrc}`,
      ...Object.entries(buildArguments).map(([name, value]) => `--build-arg=${name}=${value}`),
      `--tag=${reference}`,
      root,
    ]);
  }

  async run(command: readonly string[]): Promise<string> {
    const env = { ...process.env, TMPDIR: join(this.#folder, 'tmp') };
    return await mustRun(this.#command(command), { limitMs: buildLimitMs, env });
  }

  /** In a mount namespace of its own: its mounts, some of which it never takes away, end with it. */
  #command(command: readonly string[]): string[] {
    return ['unshare', '--mount', 'buildah', ...this.#global, ...command];
  }
}
