import { describe, expect, test } from '@jest/globals';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LinuxDisk } from '../../src/volumedriver/disk/linux-disk.ts';
import { MemoryStore } from '../../src/volumedriver/store/memory-store.ts';
import { describeStore } from '../../src/volumedriver/store/store-contract.ts';
import { FaultyStore } from './faulty-store.ts';

describeStore('FaultyStore without faults', () => {
  const directory = fs.mkdtempSync(join(tmpdir(), 'volumedriver-store-'));
  let count = 0;
  return Promise.resolve({
    store: new FaultyStore(new MemoryStore(new LinuxDisk())),
    makeFile: (content) => {
      const path = join(directory, `file-${count++}`);
      fs.writeFileSync(path, content);
      return Promise.resolve(path);
    },
    cleanUp: () => {
      fs.rmSync(directory, { recursive: true, force: true });
    },
  });
});

describe('FaultyStore', () => {
  const value = [Buffer.from('value')];

  test('the n-th call fails, once, before or after the work', async () => {
    const store = new FaultyStore(new MemoryStore());
    store.fail({ call: 'anyPut', nth: 2 });
    await store.put('a', value);
    await expect(store.putIfAbsent('b', value)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await store.get('b')).toBeUndefined();
    store.fail({ call: 'putIfAbsent', afterwards: true, key: (key) => key === 'b' });
    await expect(store.putIfAbsent('b', value)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await store.putIfAbsent('b', value)).toBe(false);
    expect(store.puts).toEqual(new Map(Object.entries({ a: 1, b: 3 })));
  });

  test('blocked puts wait until released', async () => {
    const store = new FaultyStore(new MemoryStore());
    const release = store.blockPuts((key) => key.startsWith('slot/'));
    await store.put('other', value);
    const put = store.put('slot/1', value);
    await new Promise(setImmediate);
    expect(store.blockedCount).toBe(1);
    expect(await store.get('slot/1')).toBeUndefined();
    release();
    await put;
    expect(String(await store.get('slot/1'))).toBe('value');
  });

  test('a flipped byte is seen by every read of it', async () => {
    const store = new FaultyStore(new MemoryStore());
    await store.put('k', [Buffer.from([1, 2, 3])]);
    store.flipByte('k', 1);
    expect(await store.get('k')).toEqual(Buffer.from([1, 0xfd, 3]));
    expect(await store.get('k', { offset: 1, length: 1 })).toEqual(Buffer.from([0xfd]));
    expect(await store.get('k', { offset: 2, length: 1 })).toEqual(Buffer.from([3]));
    expect(store.gets.get('k')).toBe(3);
  });

  test('a delay comes before the effect', async () => {
    const store = new FaultyStore(new MemoryStore());
    const gate: PromiseWithResolvers<void> = Promise.withResolvers();
    store.delay = (call) => (call === 'put' ? gate.promise : Promise.resolve());
    const put = store.put('k', value);
    expect(await store.get('k')).toBeUndefined();
    gate.resolve();
    await put;
    expect(String(await store.get('k'))).toBe('value');
  });
});
