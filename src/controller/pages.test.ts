import { expect, test } from '@jest/globals';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import type { PageRequest } from '../volumes/volume-service.ts';
import { listPage } from './pages.ts';
import type { Volumedriver } from './volumedrivers.ts';

function volumedriver(backendId: string): Volumedriver {
  const nodeId = `node-of-${backendId}`;
  return { backendId, nodeId, shared: false, volumes: new MemoryVolumeService({ backendId }) };
}

const volumedrivers = {
  list: () => Promise.resolve(['aa', 'bb', 'cc'].map(volumedriver)),
};

test('a token goes to the backend that gave it, and to no other', async () => {
  const asked: Record<string, PageRequest> = {};
  const { entries, nextToken } = await listPage(
    volumedrivers,
    { limit: 10, startToken: 'bb:its:own' },
    ({ backendId }, page) => {
      asked[backendId] = page;
      return Promise.resolve({ items: [`${backendId}-1`, `${backendId}-2`] });
    },
  );
  expect(asked).toEqual({ bb: { limit: 10, startToken: 'its:own' }, cc: { limit: 8 } });
  expect(entries.map(({ item }) => item)).toEqual(['bb-1', 'bb-2', 'cc-1', 'cc-2']);
  expect(nextToken).toBe('');
});

test('empty backends are passed over, and an empty page is not the end', async () => {
  const page = await listPage(volumedrivers, { limit: 1, startToken: '' }, ({ backendId }) =>
    Promise.resolve(backendId === 'bb' ? { items: [], nextToken: 'more' } : { items: [] }),
  );
  expect(page).toEqual({ entries: [], nextToken: 'bb:more' });
});

test('without a limit, pages stay small enough for a message', async () => {
  const limits: (number | undefined)[] = [];
  await listPage(volumedrivers, { limit: undefined, startToken: '' }, (_, { limit }) => {
    limits.push(limit);
    return Promise.resolve({ items: Array.from({ length: 400 }, () => 'x') });
  });
  expect(limits).toEqual([1000, 600, 200]);
});
