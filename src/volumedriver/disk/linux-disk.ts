/**
 * The Disk on a real filesystem, by node:fs with explicit positions only. A file that is closed while a read or a
 * sync is still running off the thread keeps its descriptor until that ends: a descriptor number given back early
 * would be taken by another file, and the read would return that file's bytes.
 */
import fs from 'node:fs';
import { dirname } from 'node:path';
import { VolumeError } from '../../volumes/errors.ts';
import type { Capacity } from '../../volumes/volume.ts';
import { diskError, errnoName } from './disk-errors.ts';
import type { Disk, DiskFile } from './disk.ts';
import { LinuxFile } from './linux-file.ts';

const linkRefused = new Set(['EXDEV', 'EPERM', 'EMLINK', 'EOPNOTSUPP', 'ENOTSUP']);
const noDirectory = new Set(['ENOENT', 'ENOTDIR']);

export class LinuxDisk implements Disk {
  create(path: string): DiskFile {
    return new LinuxFile(
      path,
      attempt('create', path, () => fs.openSync(path, 'wx+', 0o600)),
    );
  }

  open(path: string, access: 'read' | 'write'): DiskFile {
    const flags = access === 'read' ? 'r' : 'r+';
    return new LinuxFile(
      path,
      attempt('open', path, () => fs.openSync(path, flags)),
    );
  }

  list(directory: string): string[] {
    try {
      return fs.readdirSync(directory).sort();
    } catch (error) {
      if (noDirectory.has(errnoName(error) ?? '')) return [];
      throw diskError(error, `list ${directory}`);
    }
  }

  makeDirectory(path: string): void {
    attempt('make directory', path, () => {
      makeWithParents(path);
    });
  }

  sizeOf(path: string): number | undefined {
    try {
      const stat = fs.statSync(path, { throwIfNoEntry: false });
      return stat?.isFile() ? stat.size : undefined;
    } catch (error) {
      if (noDirectory.has(errnoName(error) ?? '')) return undefined;
      throw diskError(error, `stat ${path}`);
    }
  }

  remove(path: string): void {
    try {
      fs.unlinkSync(path);
    } catch (error) {
      const name = errnoName(error) ?? '';
      if (noDirectory.has(name)) return;
      // POSIX lets unlink of a directory fail with EPERM; Linux says EISDIR.
      if (name !== 'EISDIR' && name !== 'EPERM') throw diskError(error, `remove ${path}`);
      removeEmptyDirectory(path);
    }
  }

  rename(from: string, to: string): void {
    attempt('rename', `${from} to ${to}`, () => {
      fs.renameSync(from, to);
    });
  }

  link(from: string, to: string): boolean {
    try {
      fs.linkSync(from, to);
      return true;
    } catch (error) {
      const name = errnoName(error) ?? '';
      if (name === 'EEXIST') return false;
      const what = `link ${from} to ${to}`;
      if (linkRefused.has(name)) {
        throw new VolumeError('NOT_CAPABLE', `${what}: ${name}`, { cause: error });
      }
      throw diskError(error, what);
    }
  }

  async syncDirectory(path: string): Promise<void> {
    const what = `sync directory ${path}`;
    try {
      const directory = await fs.promises.open(
        path,
        fs.constants.O_RDONLY | fs.constants.O_DIRECTORY,
      );
      try {
        await directory.sync();
      } finally {
        await directory.close();
      }
    } catch (error) {
      throw diskError(error, what);
    }
  }

  async capacity(path: string): Promise<Capacity> {
    try {
      const stats = await fs.promises.statfs(path);
      return {
        totalBytes: stats.blocks * stats.bsize,
        availableBytes: stats.bavail * stats.bsize,
      };
    } catch (error) {
      throw diskError(error, `statfs ${path}`);
    }
  }
}

function attempt<T>(operation: string, path: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw diskError(error, `${operation} ${path}`);
  }
}

/**
 * Not mkdir's own `recursive`: where a directory can't be made although its parent is there (procfs says ENOENT), Node 24
 * tries again without end, and not even a signal gets through.
 */
function makeWithParents(path: string): void {
  try {
    fs.mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    const name = errnoName(error);
    if (name === 'EEXIST' && fs.statSync(path).isDirectory()) return;
    const parent = dirname(path);
    if (name !== 'ENOENT' || fs.existsSync(parent)) throw error;
    makeWithParents(parent);
    makeWithParents(path);
  }
}

function removeEmptyDirectory(path: string): void {
  try {
    fs.rmdirSync(path);
  } catch (error) {
    if (noDirectory.has(errnoName(error) ?? '')) return;
    throw diskError(error, `remove directory ${path}`);
  }
}
