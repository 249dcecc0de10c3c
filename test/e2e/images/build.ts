/**
 * All images that a cluster of the end-to-end tests needs, as archives for it to import: the product's own, the
 * sidecars', and those of the tests' pods. Needs root, and the Debian packages of scripts/install-missing's set
 * `e2e`. What is in the cache is not made again; by hand: test/e2e/images/by-hand.ts.
 */
import type { ImageReferences } from '../provider.ts';
import type { BuiltImage, Logger } from './built-image.ts';
import { cacheFolder, ImageCache } from './image-cache.ts';
import { buildPostgres } from './postgres-image.ts';
import { buildProduct } from './product-image.ts';
import { buildBusybox, buildProgram, sidecars, snapshotController } from './program-images.ts';

export interface BuildImagesOptions {
  readonly logger: Logger;
  /** Where the sidecars' programs are: see test/e2e/tools/build.ts. */
  readonly toolsDirectory: string;
  /** `smoke` does without PostgreSQL, whose reference names nothing then. */
  readonly which: 'smoke' | 'full';
}

export interface BuiltImages {
  readonly archives: readonly string[];
  readonly references: ImageReferences;
}

export async function buildImages(options: BuildImagesOptions): Promise<BuiltImages> {
  const cache = new ImageCache(cacheFolder('images'));
  return await cache.locked(async () => await buildAll(cache, options));
}

async function buildAll(
  cache: ImageCache,
  { logger, toolsDirectory, which }: BuildImagesOptions,
): Promise<BuiltImages> {
  const archives: string[] = [];
  const add = async (image: Promise<BuiltImage>): Promise<string> => {
    const { archive, reference } = await image;
    archives.push(archive);
    return reference;
  };
  const references = {
    product: await add(buildProduct(cache, logger)),
    busybox: await add(buildBusybox(cache, logger)),
    postgres: which === 'full' ? await add(buildPostgres(cache, logger)) : '',
    snapshotController: await add(buildProgram(cache, snapshotController, toolsDirectory)),
    sidecars: {} as Record<string, string>,
  };
  for (const [key, program] of Object.entries(sidecars)) {
    references.sidecars[key] = await add(buildProgram(cache, program, toolsDirectory));
  }
  return { archives, references };
}
