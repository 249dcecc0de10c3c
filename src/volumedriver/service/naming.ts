/** Names and pages: rules that have nothing to do with storage. */
import { VolumeError } from '../../volumes/errors.ts';
import type { Page, PageRequest } from '../../volumes/volume-service.ts';

const nameBytesMax = 128;
const pageItemsMax = 500;

/** INVALID_ARGUMENT unless it is 1 to 128 bytes of Unicode without control characters (CSI spec, "Size Limits"). */
export function checkName(what: string, name: string): void {
  const bytes = Buffer.byteLength(name, 'utf8');
  const valid = bytes >= 1 && bytes <= nameBytesMax && !/\p{Cc}/u.test(name) && name.isWellFormed();
  if (valid) return;
  throw new VolumeError(
    'INVALID_ARGUMENT',
    `${what}: a name has 1 to ${nameBytesMax} bytes of UTF-8 and no control characters, this one has ${bytes} bytes`,
  );
}

/** A page of items that are sorted by id; the token is the last id of the page before. */
export function pageOf<Item extends { readonly id: string }>(
  items: readonly Item[],
  request: PageRequest,
  isToken: (token: string) => boolean,
): Page<Item> {
  const { startToken, limit } = request;
  if (startToken !== undefined && !isToken(startToken)) {
    throw new VolumeError('BAD_PAGE_TOKEN', 'listing: the token did not come from an earlier page');
  }
  const sorted = [...items].sort((a, b) => (a.id < b.id ? -1 : 1));
  const rest = startToken === undefined ? sorted : sorted.filter(({ id }) => id > startToken);
  const count = Math.min(limit === undefined || limit === 0 ? pageItemsMax : limit, pageItemsMax);
  const page = rest.slice(0, count);
  const last = page.at(-1);
  return rest.length > page.length && last !== undefined
    ? { items: page, nextToken: last.id }
    : { items: page };
}
