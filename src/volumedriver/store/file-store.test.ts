import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemRandom as random } from '../../base/random.ts';
import { LinuxDisk } from '../disk/linux-disk.ts';
import { FileStore } from './file-store.ts';
import { describeStore } from './store-contract.ts';

const temporary = (): string => fs.mkdtempSync(join(tmpdir(), 'volumedriver-store-'));

/** Refuses links as one across filesystems is refused, except within the store. */
class OtherFilesystem extends LinuxDisk {
  override link(from: string, to: string): boolean {
    return super.link(from.includes('/files/') ? join('/proc/version') : from, to);
  }
}

for (const [name, disk] of [
  ['FileStore', new LinuxDisk()],
  ['FileStore on another filesystem than the files', new OtherFilesystem()],
] as const) {
  describeStore(name, async () => {
    const directory = temporary();
    fs.mkdirSync(join(directory, 'files'));
    let count = 0;
    const store = await FileStore.open({ disk, root: join(directory, 'new/root'), random });
    return {
      store,
      makeFile: (content) => {
        const path = join(directory, 'files', `file-${count++}`);
        fs.writeFileSync(path, content);
        return Promise.resolve(path);
      },
      cleanUp: () => {
        store.close();
        fs.rmSync(directory, { recursive: true, force: true });
      },
    };
  });
}

describe('FileStore', () => {
  const disk = new LinuxDisk();
  let directory: string;
  let root: string;
  beforeEach(() => {
    directory = temporary();
    root = join(directory, 'root');
  });
  afterEach(() => {
    fs.rmSync(directory, { recursive: true, force: true });
  });

  test('links a finished file instead of copying it', async () => {
    const store = await FileStore.open({ disk, root, random });
    const path = join(directory, 'sco');
    fs.writeFileSync(path, 'content');
    await store.putFile('objects/1', path);
    expect(fs.statSync(store.localFile('objects/1')).ino).toBe(fs.statSync(path).ino);
    store.close();
  });

  test('finds objects again, and removes leftover temporary files of its own instance only', async () => {
    const first = await FileStore.open({ disk, root, random });
    await first.put('a/b', [Buffer.from('v')]);
    first.close();
    const mine = join(root, '+tmp/local/leftover');
    const others = join(root, '+tmp/other/busy');
    fs.writeFileSync(mine, '');
    fs.mkdirSync(join(root, '+tmp/other'));
    fs.writeFileSync(others, '');
    const second = await FileStore.open({ disk, root, random });
    expect(String(await second.get('a/b'))).toBe('v');
    expect(fs.existsSync(mine)).toBe(false);
    expect(fs.existsSync(others)).toBe(true);
    expect((await second.list('')).map(({ key }) => key)).toEqual(['a/b']);
    second.close();
  });

  test('leaves no temporary file and no empty directory behind', async () => {
    const store = await FileStore.open({ disk, root, random });
    await store.putIfAbsent('a/b/c', [Buffer.from('v')]);
    await store.putIfAbsent('a/b/c', [Buffer.from('w')]);
    expect(fs.readdirSync(join(root, '+tmp/local'))).toEqual([]);
    await store.delete('a/b/c');
    expect(fs.readdirSync(root)).toEqual(['+tmp']);
    store.close();
  });

  test('keeps at most the given number of files open', async () => {
    const store = await FileStore.open({ disk, root, random, openFilesMax: 4 });
    for (let index = 0; index < 20; index++) await store.put(`o/${index}`, [Buffer.from([index])]);
    const openCount = (): number =>
      fs.readdirSync('/proc/self/fd').filter((fd) => {
        try {
          return fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith(join(root, 'o'));
        } catch {
          return false;
        }
      }).length;
    for (let round = 0; round < 3; round++) {
      for (let index = 0; index < 20; index++) {
        expect(await store.get(`o/${index}`)).toEqual(Buffer.from([index]));
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(openCount()).toBe(4);
    store.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(openCount()).toBe(0);
  });

  test('a truncated object is CORRUPT, not short', async () => {
    const store = await FileStore.open({ disk, root, random });
    await store.put('o', [Buffer.from('0123456789')]);
    await store.get('o', { offset: 0, length: 1 });
    fs.truncateSync(store.localFile('o'), 5);
    await expect(store.get('o')).rejects.toMatchObject({ code: 'CORRUPT' });
    store.close();
  });
});
