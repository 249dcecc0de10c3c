/** Tools and images made from sources, each from a cache where it is there already. */
import { describeError } from '../../../src/base/logger.ts';
import { buildImages } from '../images/build.ts';
import type { Preparations, PrepareOptions } from '../provider.ts';
import { buildTools } from '../tools/build.ts';

/** Nothing is wrong, but nothing can be shown here either. */
export class Skipped extends Error {
  override readonly name = 'Skipped';
}

export async function prepareFromSources(options: PrepareOptions): Promise<Preparations> {
  const { logger, which, cachedOnly } = options;
  const tools = await buildTools({ logger, cachedOnly }).catch((error: unknown) => {
    if (!cachedOnly) throw error;
    throw new Skipped(`the tools are not in the cache: ${describeError(error)}`);
  });
  const toolsDirectory = tools.directory;
  const images = await buildImages({ logger, toolsDirectory, which });
  return { toolsDirectory, crds: tools.crds, ...images };
}
