/** A listing of a VolumeService as a whole: its pages one after the other, whoever is behind it. */
import { VolumeError } from './errors.ts';
import type { Page, PageRequest } from './volume-service.ts';

/** A page holds up to 1000 items, and a backend far fewer than 10 million volumes or snapshots. */
const pagesMax = 10_000;

/** Every item, in order. PROTOCOL_ERROR for a service whose pages come to no end. */
export async function* allPages<Item>(
  list: (page: PageRequest) => Promise<Page<Item>>,
): AsyncGenerator<Item> {
  let startToken: string | undefined;
  for (let pages = 0; pages < pagesMax; pages++) {
    const { items, nextToken }: Page<Item> = await list(
      startToken === undefined ? {} : { startToken },
    );
    yield* items;
    if (nextToken === undefined) return;
    if (nextToken === startToken) break;
    startToken = nextToken;
  }
  throw new VolumeError('PROTOCOL_ERROR', 'list: the volumedriver repeats its pages without end');
}
