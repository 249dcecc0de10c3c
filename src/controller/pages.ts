/**
 * Lists over all backends, page by page: the backends in the order of their ids, and within one the pages that its
 * volumedriver makes. A token says where to go on, BACKENDID:TOKEN, so that any controller can do it; backends may
 * come and go between two pages. A volumedriver that does not answer fails the call: from a list that leaves
 * volumes out, a caller would conclude that they are gone.
 */
import { VolumeError } from '../volumes/errors.ts';
import type { Page, PageRequest } from '../volumes/volume-service.ts';
import type { Volumedriver, Volumedrivers } from './volumedrivers.ts';

/** Sidecars receive at most 4 MiB in one message (grpc-go's default); an entry stays below 2 KiB. */
const pageEntriesMax = 1000;

export interface Listed<Item> {
  readonly item: Item;
  readonly volumedriver: Volumedriver;
}

export interface PageWish {
  /** Undefined: as many as fit. */
  readonly limit: number | undefined;
  /** Empty: from the start. */
  readonly startToken: string;
}

/** BAD_PAGE_TOKEN for a token that no list gave. */
export async function listPage<Item>(
  volumedrivers: Pick<Volumedrivers, 'list'>,
  wish: PageWish,
  listOne: (volumedriver: Volumedriver, page: PageRequest) => Promise<Page<Item>>,
): Promise<{ entries: Listed<Item>[]; nextToken: string }> {
  const start = parseToken(wish.startToken);
  const limit = Math.min(wish.limit ?? pageEntriesMax, pageEntriesMax);
  const entries: Listed<Item>[] = [];
  const backends = (await volumedrivers.list()).filter((one) => one.backendId >= start.backendId);
  for (const volumedriver of backends) {
    const { backendId } = volumedriver;
    if (entries.length === limit) return { entries, nextToken: `${backendId}:` };
    const startToken = backendId === start.backendId ? start.inner : '';
    const { items, nextToken = '' } = await listOne(volumedriver, {
      limit: limit - entries.length,
      ...(startToken === '' ? {} : { startToken }),
    });
    entries.push(...items.map((item) => ({ item, volumedriver })));
    if (nextToken !== '') return { entries, nextToken: `${backendId}:${nextToken}` };
  }
  return { entries, nextToken: '' };
}

interface Position {
  readonly backendId: string;
  /** The volumedriver's own token; empty: its first page. */
  readonly inner: string;
}

function parseToken(token: string): Position {
  if (token === '') return { backendId: '', inner: '' };
  const [, backendId, inner] = /^([^:]+):(.*)$/.exec(token) ?? [];
  if (backendId !== undefined && inner !== undefined) return { backendId, inner };
  throw new VolumeError('BAD_PAGE_TOKEN', 'starting_token: it comes from no earlier page');
}
