/**
 * Walks a directory tree of objects in the byte order of their keys, lazily. Plain order of names is not enough: a
 * directory stands for keys that go on with '/', which sorts after '-' and '.', so a directory's turn comes when the
 * next name lies behind "directory/".
 */
import { join } from 'node:path';
import type { Disk } from '../disk/disk.ts';
import type { ObjectInfo } from './object-store.ts';

export interface TreeWalk {
  readonly disk: Disk;
  readonly root: string;
  /** Only keys that start with this. */
  readonly prefix: string;
  /** Only keys behind this one. */
  readonly startAfter: string;
}

/** `parent` is '' or ends in '/'. */
export function* walkObjects(walk: TreeWalk, parent = ''): Generator<ObjectInfo> {
  const { disk, root, prefix, startAfter } = walk;
  // Directories passed but not yet due. Each starts with the one below it, so the last is always due first.
  const waiting: string[] = [];
  for (const name of disk.list(join(root, parent))) {
    const key = parent + name;
    while (waiting.length > 0 && `${waiting.at(-1) ?? ''}/` < key) {
      yield* walkObjects(walk, `${waiting.pop() ?? ''}/`);
    }
    if (!mayLead(key, prefix) || isBefore(key, startAfter)) continue;
    const sizeBytes = disk.sizeOf(join(root, key));
    if (sizeBytes === undefined) waiting.push(key);
    else if (key.startsWith(prefix) && key > startAfter) yield { key, sizeBytes };
  }
  for (const directory of waiting.reverse()) yield* walkObjects(walk, `${directory}/`);
}

/** Whether the key, or one below it, can start with the prefix; names that no key has (temporary files) never do. */
function mayLead(key: string, prefix: string): boolean {
  if (key.includes('+')) return false;
  return key.startsWith(prefix) || prefix.startsWith(`${key}/`);
}

/** Whether the key and all keys below it lie at or before `startAfter`. */
function isBefore(key: string, startAfter: string): boolean {
  return key <= startAfter && `${key}/` < startAfter && !startAfter.startsWith(`${key}/`);
}
