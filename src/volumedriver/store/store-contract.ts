/** What every ObjectStore does, as a suite that each implementation runs. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { systemRandom } from '../../base/random.ts';
import type { ObjectStore } from './object-store.ts';
import { probePutIfAbsent } from './probe.ts';

export interface StoreUnderTest {
  /** An empty store. */
  readonly store: ObjectStore;
  /** Writes a file durably, as putFile expects it, and returns its path. */
  readonly makeFile: (content: Buffer) => Promise<string>;
  readonly cleanUp: () => void | Promise<void>;
}

const text = (value: string): Buffer[] => [Buffer.from(value)];

export function describeStore(name: string, open: () => Promise<StoreUnderTest>): void {
  describe(`${name} as an ObjectStore`, () => {
    let under: StoreUnderTest;
    let store: ObjectStore;
    const keys = async (prefix = '', options = {}): Promise<string[]> =>
      (await store.list(prefix, options)).map(({ key }) => key);

    beforeEach(async () => {
      under = await open();
      store = under.store;
    });
    afterEach(async () => {
      await under.cleanUp();
    });

    describe('put and get', () => {
      test('gives back what was put, in one piece', async () => {
        await store.put('a/b/c', [Buffer.from('one '), Buffer.alloc(0), Buffer.from('two')]);
        expect(String(await store.get('a/b/c'))).toBe('one two');
      });

      test('keeps an object when its source buffer and a result change', async () => {
        const source = Buffer.from('abc');
        await store.put('k', [source]);
        source.fill(0);
        const first = await store.get('k');
        expect(String(first)).toBe('abc');
        first?.fill(0);
        expect(String(await store.get('k'))).toBe('abc');
      });

      test('an empty object is there', async () => {
        await store.put('empty', []);
        expect((await store.get('empty'))?.length).toBe(0);
        expect(await store.list('')).toEqual([{ key: 'empty', sizeBytes: 0 }]);
      });

      test('a big object of many parts is whole', async () => {
        const parts = Array.from({ length: 37 }, (_, index) => Buffer.alloc(100_003, index + 1));
        await store.put('big', parts);
        expect((await store.get('big'))?.equals(Buffer.concat(parts))).toBe(true);
        const range = await store.get('big', { offset: 1_999_999, length: 900_000 });
        expect(range?.equals(Buffer.concat(parts).subarray(1_999_999, 2_899_999))).toBe(true);
      });

      test('the same again is harmless, also at once', async () => {
        await Promise.all([store.put('k', text('v')), store.put('k', text('v'))]);
        await store.put('k', text('v'));
        expect(String(await store.get('k'))).toBe('v');
      });

      test('other content of another size under a used key is CORRUPT', async () => {
        await store.put('k', text('v'));
        await expect(store.put('k', text('longer'))).rejects.toMatchObject({ code: 'CORRUPT' });
        expect(String(await store.get('k'))).toBe('v');
      });

      test.each([
        { range: { offset: 0, length: 4 }, expected: '0123' },
        { range: { offset: 3, length: 4 }, expected: '3456' },
        { range: { offset: 8, length: 100 }, expected: '89' },
        { range: { offset: 10, length: 1 }, expected: '' },
        { range: { offset: 999, length: 1 }, expected: '' },
        { range: { offset: 5, length: 0 }, expected: '' },
      ])('range $range.offset+$range.length', async ({ range, expected }) => {
        await store.put('k', text('0123456789'));
        expect(String(await store.get('k', range))).toBe(expected);
      });

      test.each([
        { offset: -1, length: 1 },
        { offset: 0, length: -1 },
        { offset: 0.5, length: 1 },
      ])('range $offset+$length is INVALID_ARGUMENT', async (range) => {
        await store.put('k', text('0123456789'));
        await expect(store.get('k', range)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      });

      test('a missing key is undefined, also where other keys go on with it', async () => {
        await store.put('a/b/c', text('v'));
        expect(await store.get('x')).toBeUndefined();
        expect(await store.get('x/y')).toBeUndefined();
        expect(await store.get('a/b')).toBeUndefined();
        expect(await store.get('a/b/c/d')).toBeUndefined();
      });
    });

    describe('putIfAbsent', () => {
      test('creates once and never replaces', async () => {
        expect(await store.putIfAbsent('slot/1', text('first'))).toBe(true);
        expect(await store.putIfAbsent('slot/1', text('second'))).toBe(false);
        expect(String(await store.get('slot/1'))).toBe('first');
      });

      test('has one winner among many at once, and the object is the winner’s', async () => {
        const contents = Array.from({ length: 20 }, (_, index) => `writer ${index}`);
        const created = await Promise.all(
          contents.map((content) => store.putIfAbsent('slot/1', text(content))),
        );
        const winners = contents.filter((_, index) => created[index]);
        expect(winners).toHaveLength(1);
        expect(String(await store.get('slot/1'))).toBe(winners[0]);
        expect(await keys()).toEqual(['slot/1']);
      });

      test('works again after a delete', async () => {
        await store.putIfAbsent('k', text('1'));
        await store.delete('k');
        expect(await store.putIfAbsent('k', text('2'))).toBe(true);
        expect(String(await store.get('k'))).toBe('2');
      });

      test('passes the probe, which leaves nothing', async () => {
        await probePutIfAbsent(store, systemRandom);
        expect(await keys()).toEqual([]);
      });
    });

    describe('putFile', () => {
      test('stores a file that is removed afterwards, and again', async () => {
        const content = Buffer.alloc(3_000_000, 'pattern');
        const path = await under.makeFile(content);
        await store.putFile('objects/1', path);
        await store.putFile('objects/1', path);
        expect((await store.get('objects/1'))?.equals(content)).toBe(true);
        expect(await store.list('')).toEqual([{ key: 'objects/1', sizeBytes: 3_000_000 }]);
      });

      test('other content of another size under a used key is CORRUPT', async () => {
        await store.put('k', text('v'));
        const path = await under.makeFile(Buffer.from('longer'));
        await expect(store.putFile('k', path)).rejects.toMatchObject({ code: 'CORRUPT' });
      });

      test('a missing file is PATH_NOT_FOUND', async () => {
        const path = await under.makeFile(Buffer.from('x'));
        await expect(store.putFile('k', `${path}-none`)).rejects.toMatchObject({
          code: 'PATH_NOT_FOUND',
        });
        expect(await keys()).toEqual([]);
      });
    });

    describe('list', () => {
      const all = ['a', 'b-c', 'b.d/x', 'b/c', 'b/c-/y', 'b0', 'c/1/2/3', 'c/1/4', 'd'];
      beforeEach(async () => {
        for (const key of all.toReversed()) await store.put(key, text(key));
      });

      test('is in byte order, over directories', async () => {
        expect(await keys()).toEqual(all);
      });

      test.each(['', 'b', 'b/', 'b/c', 'c/1/', 'c/1/2/3', 'none', 'none/x', 'd/'])(
        'prefix "%s"',
        async (prefix) => {
          expect(await keys(prefix)).toEqual(all.filter((key) => key.startsWith(prefix)));
        },
      );

      test('goes on after any key, there or not, in pages of any size', async () => {
        const starts = [...all, 'b', 'b/', 'b/c-', 'b/b', 'c', 'c/1', 'c/1/2/9', 'zzz', '0'];
        for (const startAfter of starts) {
          const expected = all.filter((key) => key > startAfter);
          expect(await keys('', { startAfter })).toEqual(expected);
          expect(await keys('', { startAfter, limit: 2 })).toEqual(expected.slice(0, 2));
          expect(await keys('b', { startAfter })).toEqual(
            expected.filter((key) => key.startsWith('b')),
          );
        }
      });

      test('tells sizes', async () => {
        expect(await store.list('c/1/4')).toEqual([{ key: 'c/1/4', sizeBytes: 5 }]);
      });
    });

    describe('delete', () => {
      test('removes one object and can be repeated', async () => {
        await store.put('a/b/1', text('1'));
        await store.put('a/b/2', text('2'));
        expect(String(await store.get('a/b/1'))).toBe('1');
        await store.delete('a/b/1');
        await store.delete('a/b/1');
        await store.delete('never/was');
        expect(await store.get('a/b/1')).toBeUndefined();
        expect(await keys()).toEqual(['a/b/2']);
      });

      test('frees the names above it', async () => {
        await store.put('a/b', text('1'));
        await store.delete('a/b');
        await store.put('a', text('2'));
        expect(await keys()).toEqual(['a']);
      });

      test('does not disturb puts beside it', async () => {
        for (let round = 0; round < 10; round++) {
          const puts = Array.from({ length: 8 }, (_, index) => `d/e/${round}-${index}`);
          await Promise.all([
            ...puts.map((key) => store.put(key, text(key))),
            ...puts.map((key) => store.delete(`d/e/other-${key.slice(4)}`)),
          ]);
          expect(await keys('d/')).toEqual(puts);
          await Promise.all(puts.map((key) => store.delete(key)));
        }
        expect(await keys()).toEqual([]);
      });
    });

    test.each([
      '',
      '/a',
      'a/',
      'a//b',
      'a/../b',
      '.',
      'a b',
      'ä',
      '+tmp/x',
      'a\0',
      'x'.repeat(901),
    ])('key %j is INVALID_ARGUMENT everywhere', async (key) => {
      const refused = { code: 'INVALID_ARGUMENT' };
      await expect(store.put(key, text('x'))).rejects.toMatchObject(refused);
      await expect(store.putIfAbsent(key, text('x'))).rejects.toMatchObject(refused);
      await expect(store.get(key)).rejects.toMatchObject(refused);
      await expect(store.delete(key)).rejects.toMatchObject(refused);
      await expect(
        store.putFile(key, await under.makeFile(Buffer.from('x'))),
      ).rejects.toMatchObject(refused);
    });

    test('capacity is null or positive', async () => {
      const capacity = await store.capacity();
      expect(capacity === null || capacity.availableBytes > 0).toBe(true);
    });
  });
}
