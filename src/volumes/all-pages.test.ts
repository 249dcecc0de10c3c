import { expect, test } from '@jest/globals';
import { allPages } from './all-pages.ts';
import type { Page, PageRequest } from './volume-service.ts';

/** Pages of one number each; the page's token is its number. */
function numbers(tokens: (start: number) => string | undefined) {
  return ({ startToken = '0' }: PageRequest): Promise<Page<number>> => {
    const start = Number(startToken);
    const nextToken = tokens(start);
    return Promise.resolve({ items: [start], ...(nextToken === undefined ? {} : { nextToken }) });
  };
}

test('gives the items of all pages, in order', async () => {
  const three = numbers((start) => (start < 2 ? `${start + 1}` : undefined));
  expect(await Array.fromAsync(allPages(three))).toEqual([0, 1, 2]);
});

test('asks for no more pages than are wanted', async () => {
  const asked: (string | undefined)[] = [];
  const list = (page: PageRequest): Promise<Page<number>> => {
    asked.push(page.startToken);
    return numbers((start) => `${start + 1}`)(page);
  };
  for await (const item of allPages(list)) if (item === 1) break;
  expect(asked).toEqual([undefined, '1']);
});

test.each([
  ['one page again and again', () => '1'],
  ['two pages in turn', (start: number) => `${1 + (start % 2)}`],
])('ends with an error for a service that gives %s', async (_name, tokens) => {
  await expect(Array.fromAsync(allPages(numbers(tokens)))).rejects.toMatchObject({
    code: 'PROTOCOL_ERROR',
  });
});
