import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lockDirectory } from './directory-lock.ts';
import { describeDisk } from './disk-contract.ts';
import { LinuxDisk } from './linux-disk.ts';

const temporary = (): string => fs.mkdtempSync(join(tmpdir(), 'volumedriver-disk-'));

describeDisk('LinuxDisk', () => {
  const directory = temporary();
  return {
    disk: new LinuxDisk(),
    directory,
    cleanUp: () => {
      fs.rmSync(directory, { recursive: true, force: true });
    },
  };
});

describe('LinuxDisk', () => {
  let directory: string;
  beforeEach(() => {
    directory = temporary();
  });
  afterEach(() => {
    fs.rmSync(directory, { recursive: true, force: true });
  });

  test('makeDirectory gives up where nothing can be made, and tells files from directories', () => {
    const disk = new LinuxDisk();
    // Its parent is there, and it can't be made: a shortcut through `recursive` never returns.
    expect(() => {
      disk.makeDirectory('/proc/nothing/at/all');
    }).toThrow(expect.objectContaining({ name: 'VolumeError' }));
    fs.writeFileSync(join(directory, 'file'), '');
    for (const path of ['file', 'file/below']) {
      expect(() => {
        disk.makeDirectory(join(directory, path));
      }).toThrow(expect.objectContaining({ name: 'VolumeError' }));
    }
    fs.mkdirSync(join(directory, 'real'));
    fs.symlinkSync('real', join(directory, 'link'));
    disk.makeDirectory(join(directory, 'link'));
    disk.makeDirectory(join(directory, 'link/below'));
    expect(disk.list(join(directory, 'real'))).toEqual(['below']);
  });

  test('a full disk is OUT_OF_SPACE', () => {
    const full = new LinuxDisk().open('/dev/full', 'write');
    expect(() => {
      full.write([Buffer.from('x')], 0);
    }).toThrow(expect.objectContaining({ code: 'OUT_OF_SPACE' }));
    full.close();
  });

  test('a link across filesystems is NOT_CAPABLE', () => {
    expect(() => new LinuxDisk().link('/proc/version', join(directory, 'a'))).toThrow(
      expect.objectContaining({ code: 'NOT_CAPABLE' }),
    );
  });

  test('cached reads of many buffers, while garbage is collected, are right', () => {
    const path = join(directory, 'a');
    const data = Buffer.from(Array.from({ length: 65536 }, (_, index) => (index * 31) % 256));
    fs.writeFileSync(path, data);
    const file = new LinuxDisk().open(path, 'read');
    for (let round = 0; round < 5000; round++) {
      const buffer = new Uint8Array(round % 300);
      expect(file.readCached(buffer, round)).toBe(true);
      if (!data.subarray(round, round + buffer.length).equals(buffer)) {
        throw new Error(`round ${round} differs`);
      }
    }
    file.close();
  });
});

describe('lockDirectory', () => {
  let directory: string;
  beforeEach(() => {
    directory = temporary();
  });
  afterEach(() => {
    fs.rmSync(directory, { recursive: true, force: true });
  });

  test('refuses a second holder, names the directory and the first, and can be released', () => {
    const lock = lockDirectory(directory, 'process 4711');
    expect(() => lockDirectory(directory)).toThrow(
      expect.objectContaining({
        code: 'VOLUME_IN_USE',
        message: `lock ${directory}: process 4711 uses this directory`,
      }),
    );
    lock.release();
    lock.release();
    lockDirectory(directory).release();
  });

  test('a directory that is not there is PATH_NOT_FOUND', () => {
    expect(() => lockDirectory(join(directory, 'none'))).toThrow(
      expect.objectContaining({ code: 'PATH_NOT_FOUND' }),
    );
  });

  test('is free again after its process was killed', async () => {
    const module = fileURLToPath(new URL('./directory-lock.ts', import.meta.url));
    const script =
      `const { lockDirectory } = await import(${JSON.stringify(module)});` +
      `lockDirectory(${JSON.stringify(directory)}, 'the child'); console.log('locked');` +
      'setTimeout(() => {}, 20_000);';
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await new Promise<void>((resolve, reject) => {
        child.stdout.once('data', () => {
          resolve();
        });
        child.once('exit', () => {
          reject(new Error('the child ended'));
        });
      });
      expect(() => lockDirectory(directory)).toThrow(/the child uses this directory/);
    } finally {
      const exit = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await exit;
    }
    lockDirectory(directory).release();
  });
});
