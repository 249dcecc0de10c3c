/**
 * What every Disk does, as a suite that each implementation runs. Nothing here is about power cuts: the simulated
 * disk has tests of its own for those.
 */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { join } from 'node:path';
import type { ErrorCode } from '../../volumes/errors.ts';
import type { Disk, DiskFile } from './disk.ts';

export interface DiskUnderTest {
  readonly disk: Disk;
  /** An existing, empty directory. */
  readonly directory: string;
  readonly cleanUp: () => void;
}

export function describeDisk(name: string, open: () => DiskUnderTest): void {
  describe(`${name} as a Disk`, () => {
    let under: DiskUnderTest;
    let disk: Disk;
    const files: DiskFile[] = [];
    const at = (path: string): string => join(under.directory, path);
    const create = (path: string): DiskFile => {
      const file = disk.create(at(path));
      files.push(file);
      return file;
    };
    const openFile = (path: string, access: 'read' | 'write'): DiskFile => {
      const file = disk.open(at(path), access);
      files.push(file);
      return file;
    };

    beforeEach(() => {
      under = open();
      disk = under.disk;
    });
    afterEach(() => {
      for (const file of files.splice(0)) file.close();
      under.cleanUp();
    });

    test('a created file is empty, readable and writable, and cannot be created again', () => {
      const file = create('a');
      expect(file.path).toBe(at('a'));
      expect(file.sizeBytes()).toBe(0);
      file.write([Buffer.from('hello')], 0);
      expect(readAll(file)).toBe('hello');
      expect(codeOf(() => disk.create(at('a')))).toBe('ALREADY_EXISTS');
    });

    test('a missing file, directory or parent is PATH_NOT_FOUND', () => {
      expect(codeOf(() => disk.open(at('none'), 'read'))).toBe('PATH_NOT_FOUND');
      expect(codeOf(() => disk.open(at('none'), 'write'))).toBe('PATH_NOT_FOUND');
      expect(codeOf(() => disk.create(at('none/a')))).toBe('PATH_NOT_FOUND');
      expect(codeOf(() => disk.rename(at('none'), at('b')))).toBe('PATH_NOT_FOUND');
      expect(codeOf(() => disk.link(at('none'), at('b')))).toBe('PATH_NOT_FOUND');
    });

    test('writes land where they are told, across several buffers, and leave zeroes between', () => {
      const file = create('a');
      file.write([Buffer.from('ab'), Buffer.alloc(0), Buffer.from('cde')], 4);
      expect(file.sizeBytes()).toBe(9);
      expect(readAll(file)).toBe('\0\0\0\0abcde');
      file.write([Buffer.from('XY')], 5);
      expect(readAll(file)).toBe('\0\0\0\0aXYde');
      file.write([], 100);
      file.write([Buffer.alloc(0)], 100);
      expect(file.sizeBytes()).toBe(9);
    });

    test('a write of more buffers than one system call takes is complete', () => {
      const file = create('a');
      file.write(
        Array.from({ length: 3000 }, (_, index) => Buffer.from([index & 0xff])),
        10,
      );
      const bytes = Buffer.alloc(3010);
      expect(file.readSync(bytes, 0)).toBe(3010);
      expect(bytes.subarray(10).every((byte, index) => byte === (index & 0xff))).toBe(true);
    });

    test('a read past the end is short, or empty', async () => {
      const file = create('a');
      file.write([Buffer.from('hello')], 0);
      const buffer = Buffer.alloc(10);
      expect(file.readSync(buffer, 2)).toBe(3);
      expect(await file.read(buffer, 2)).toBe(3);
      expect(buffer.toString('latin1', 0, 3)).toBe('llo');
      expect(file.readSync(buffer, 5)).toBe(0);
      expect(await file.read(buffer, 500)).toBe(0);
    });

    test('a cached read gives what was just written, and false past the end', () => {
      const file = create('a');
      const data = Buffer.from(Array.from({ length: 8192 }, (_, index) => index % 251));
      file.write([data], 0);
      const slab = Buffer.alloc(8192);
      const view = slab.subarray(1000, 5096);
      expect(file.readCached(view, 777)).toBe(true);
      expect(view.equals(data.subarray(777, 777 + 4096))).toBe(true);
      expect(slab.subarray(0, 1000).every((byte) => byte === 0)).toBe(true);
      expect(slab.subarray(5096).every((byte) => byte === 0)).toBe(true);
      expect(file.readCached(Buffer.alloc(10), 8190)).toBe(false);
      expect(file.readCached(Buffer.alloc(10), 9000)).toBe(false);
      expect(file.readCached(new Uint8Array(7), 1)).toBe(true);
    });

    test('truncate shrinks and grows with zeroes', () => {
      const file = create('a');
      file.write([Buffer.from('hello')], 0);
      file.truncate(2);
      expect(readAll(file)).toBe('he');
      file.truncate(4);
      expect(readAll(file)).toBe('he\0\0');
    });

    test('a file opened again has the content; one opened for reading refuses a write', () => {
      create('a').write([Buffer.from('hello')], 0);
      openFile('a', 'write').write([Buffer.from('J')], 0);
      const reader = openFile('a', 'read');
      expect(readAll(reader)).toBe('Jello');
      expect(
        codeOf(() => {
          reader.write([Buffer.from('x')], 0);
        }),
      ).toBe('INTERNAL');
    });

    test('sync and syncDirectory succeed; a missing directory is PATH_NOT_FOUND', async () => {
      const file = create('a');
      file.write([Buffer.from('hello')], 0);
      await Promise.all([file.sync(), file.sync()]);
      await disk.syncDirectory(under.directory);
      await expect(disk.syncDirectory(at('none'))).rejects.toMatchObject({
        code: 'PATH_NOT_FOUND',
      });
    });

    test('close can be repeated and does not break a sync or read that is running', async () => {
      const file = create('a');
      file.write([Buffer.from('hello')], 0);
      const buffer = Buffer.alloc(5);
      const running = [file.sync(), file.read(buffer, 0)];
      file.close();
      file.close();
      await Promise.all(running);
      expect(buffer.toString()).toBe('hello');
      await expect(file.sync()).rejects.toMatchObject({ code: 'INTERNAL' });
    });

    test('an unlinked file stays usable through an open one', () => {
      const file = create('a');
      file.write([Buffer.from('hello')], 0);
      disk.remove(at('a'));
      expect(disk.list(under.directory)).toEqual([]);
      expect(readAll(file)).toBe('hello');
      create('a');
      expect(readAll(file)).toBe('hello');
    });

    test('list is sorted and has directories; sizeOf knows files only', () => {
      create('b').write([Buffer.from('12')], 0);
      create('a');
      disk.makeDirectory(at('c/d'));
      expect(disk.list(under.directory)).toEqual(['a', 'b', 'c']);
      expect(disk.list(at('none'))).toEqual([]);
      expect(disk.list(at('a'))).toEqual([]);
      expect(disk.sizeOf(at('b'))).toBe(2);
      expect(disk.sizeOf(at('c'))).toBeUndefined();
      expect(disk.sizeOf(at('none'))).toBeUndefined();
      expect(disk.sizeOf(at('a/b'))).toBeUndefined();
    });

    test('makeDirectory makes parents and can be repeated', () => {
      disk.makeDirectory(at('x/y/z'));
      disk.makeDirectory(at('x/y/z'));
      expect(disk.list(at('x/y'))).toEqual(['z']);
    });

    test('remove takes files and empty directories, ignores missing ones, refuses full directories', () => {
      disk.makeDirectory(at('x'));
      create('x/a');
      expect(
        codeOf(() => {
          disk.remove(at('x'));
        }),
      ).toBe('INTERNAL');
      disk.remove(at('x/a'));
      disk.remove(at('x/a'));
      disk.remove(at('x'));
      disk.remove(at('x'));
      expect(disk.list(under.directory)).toEqual([]);
    });

    test('rename replaces; link does not', () => {
      create('a').write([Buffer.from('A')], 0);
      create('b').write([Buffer.from('B')], 0);
      expect(disk.link(at('a'), at('b'))).toBe(false);
      expect(readAll(openFile('b', 'read'))).toBe('B');
      expect(disk.link(at('a'), at('c'))).toBe(true);
      openFile('a', 'write').write([Buffer.from('x')], 0);
      expect(readAll(openFile('c', 'read'))).toBe('x');
      disk.rename(at('a'), at('b'));
      expect(readAll(openFile('b', 'read'))).toBe('x');
      expect(disk.list(under.directory)).toEqual(['b', 'c']);
    });

    test('capacity is positive', async () => {
      const capacity = await disk.capacity(under.directory);
      expect(capacity.totalBytes).toBeGreaterThan(0);
      expect(capacity.availableBytes).toBeGreaterThan(0);
      expect(capacity.availableBytes).toBeLessThanOrEqual(capacity.totalBytes);
    });
  });
}

function readAll(file: DiskFile): string {
  const buffer = Buffer.alloc(file.sizeBytes());
  expect(file.readSync(buffer, 0)).toBe(buffer.length);
  return buffer.toString('latin1');
}

function codeOf(run: () => unknown): ErrorCode | undefined {
  try {
    run();
  } catch (error) {
    return (error as { code?: ErrorCode }).code;
  }
  return undefined;
}
