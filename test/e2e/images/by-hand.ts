/**
 * Builds the images of the end-to-end tests and prints where they are:
 *   scripts/with-node node --no-warnings test/e2e/images/by-hand.ts [full|smoke|product]
 */
import { describeError } from '../../../src/base/logger.ts';
import { buildTools } from '../tools/build.ts';
import { buildImages } from './build.ts';
import { cacheFolder, ImageCache } from './image-cache.ts';
import { buildProduct } from './product-image.ts';

const started = performance.now();
const logger = (line: string): void => {
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stderr.write(`${seconds.padStart(6)} s  ${line}\n`);
};
const [which = 'full'] = process.argv.slice(2);

try {
  if (which === 'product') {
    const cache = new ImageCache(cacheFolder('images'));
    const product = await cache.locked(async () => await buildProduct(cache, logger));
    process.stdout.write(`${JSON.stringify(product, undefined, 2)}\n`);
  } else if (which === 'full' || which === 'smoke') {
    const { directory: toolsDirectory } = await buildTools({ logger });
    const images = await buildImages({ logger, toolsDirectory, which });
    process.stdout.write(`${JSON.stringify(images, undefined, 2)}\n`);
  } else {
    throw new Error('usage: by-hand.ts [full|smoke|product]');
  }
  logger('done');
} catch (error) {
  process.stderr.write(`${describeError(error)}\n`);
  process.exitCode = 1;
}
