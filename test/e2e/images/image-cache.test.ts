/** What is made once, what again, and what is left when making fails. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, readdir, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ImageCache, shortDigest } from './image-cache.ts';
import { inputDigest } from './product-image.ts';
import { versionOf } from './program-images.ts';

let folder: string;
let cache: ImageCache;
let made: string[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'image-cache-'));
  cache = new ImageCache(folder);
  made = [];
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

async function archive(name: string, input: string): Promise<string> {
  return await cache.archive(name, shortDigest(input), async (path, work) => {
    expect(await readdir(work)).toEqual([]);
    await writeFile(join(work, 'something'), input);
    await writeFile(path, input);
    made.push(input);
  });
}

async function archives(): Promise<string[]> {
  return (await readdir(folder)).filter((name) => name.endsWith('.tar')).sort();
}

describe('archive', () => {
  test('is made once for the same input', async () => {
    const first = await archive('thing', 'one');
    expect(await archive('thing', 'one')).toBe(first);
    expect(made).toEqual(['one']);
    expect(await readdir(folder)).toEqual([`thing-${shortDigest('one')}.tar`]);
  });

  test('keeps the one before it, and those of other names', async () => {
    await archive('thing', 'one');
    await archive('thing-controller', 'other');
    await utimes(await archive('thing', 'two'), 2, 2);
    await utimes(await archive('thing', 'one'), 1, 1);
    await archive('thing', 'three');
    expect(await archives()).toEqual(
      [
        `thing-${shortDigest('three')}.tar`,
        `thing-${shortDigest('two')}.tar`,
        `thing-controller-${shortDigest('other')}.tar`,
      ].sort(),
    );
  });

  test('leaves nothing when it cannot be made', async () => {
    const making = cache.archive('thing', shortDigest('one'), async (_path, work) => {
      await writeFile(join(work, 'something'), '');
      throw new Error('no network');
    });
    await expect(making).rejects.toThrow('no network');
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('locked', () => {
  test('lets one in at a time', async () => {
    const order: string[] = [];
    const work = (name: string) => async (): Promise<void> => {
      order.push(`${name} begins`);
      await new Promise((resolve) => setTimeout(resolve, 50));
      order.push(`${name} ends`);
    };
    await Promise.all([cache.locked(work('one')), new ImageCache(folder).locked(work('two'))]);
    expect(order.map((line) => line.split(' ')[1])).toEqual(['begins', 'ends', 'begins', 'ends']);
  });

  test('takes away what a killed process was making', async () => {
    await mkdir(join(folder, '.new-thing-1234', 'layout'), { recursive: true });
    await writeFile(join(folder, 'thing-000000000000.tar.1234.new'), '');
    await writeFile(join(folder, 'thing-000000000000.tar'), '');
    await cache.locked(async () => {
      expect((await readdir(folder)).sort()).toEqual(['.lock', 'thing-000000000000.tar']);
    });
  });
});

describe('inputDigest', () => {
  const files = {
    Dockerfile: 'FROM base\n',
    '.dockerignore': '*\n!package.json\n!src\n**/*.test.ts\n',
    'package.json': '{}',
    'src/deep/er/a.ts': 'a',
    'src/b.ts': 'b',
  };

  async function digestWith(changes: Readonly<Record<string, string>>): Promise<string> {
    const sources = mkdtempSync(join(folder, 'sources-'));
    for (const [path, text] of Object.entries({ ...files, ...changes })) {
      await mkdir(join(sources, path, '..'), { recursive: true });
      await writeFile(join(sources, path), text);
    }
    return inputDigest(sources);
  }

  test.each([
    { what: 'a source', changes: { 'src/deep/er/a.ts': 'A' }, changed: true },
    { what: 'a new source', changes: { 'src/deep/c.ts': '' }, changed: true },
    { what: 'the package', changes: { 'package.json': '{ }' }, changed: true },
    { what: 'the Dockerfile', changes: { Dockerfile: 'FROM other\n' }, changed: true },
    { what: 'a test', changes: { 'src/deep/a.test.ts': '' }, changed: false },
    { what: 'what the build does not see', changes: { 'README.md': '' }, changed: false },
  ])('minds $what: $changed', async ({ changes, changed }) => {
    expect((await digestWith(changes)) !== (await digestWith({}))).toBe(changed);
  });
});

describe('versionOf', () => {
  const goModules = `require (
	github.com/kubernetes-csi/external-snapshotter/client/v8 v8.5.0 // indirect
	github.com/kubernetes-csi/external-snapshotter/v8 v8.6.0
)
require github.com/kubernetes-csi/csi-test v5.4.0+incompatible
`;
  test.each([
    ['external-snapshotter', 'v8.6.0'],
    ['csi-test', 'v5.4.0+incompatible'],
  ])('finds that of %s', (module, version) => {
    expect(versionOf(module, goModules)).toBe(version);
  });

  test('says what is missing', () => {
    expect(() => versionOf('external-resizer', goModules)).toThrow(
      'no version of external-resizer',
    );
  });
});
