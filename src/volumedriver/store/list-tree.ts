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
  const { disk, root } = walk;
  // Directories passed but not yet due. Each starts with the one below it, so the last is always due first.
  const waiting: string[] = [];
  for (const name of disk.list(join(root, parent))) {
    const key = parent + name;
    if (!mayHold(key, walk)) continue;
    for (let due = waiting.at(-1); due !== undefined && `${due}/` < key; due = waiting.at(-1)) {
      yield* walkObjects(walk, `${due}/`);
      waiting.pop();
    }
    const sizeBytes = disk.sizeOf(join(root, key));
    if (sizeBytes === undefined) waiting.push(key);
    else if (isWanted(key, walk)) yield { key, sizeBytes };
  }
  for (const directory of waiting.reverse()) yield* walkObjects(walk, `${directory}/`);
}

function isWanted(key: string, { prefix, startAfter }: TreeWalk): boolean {
  return key.startsWith(prefix) && key > startAfter;
}

/** Whether the key, or one below it, can be wanted; a name that no key has (temporary files) never is. */
function mayHold(key: string, { prefix, startAfter }: TreeWalk): boolean {
  if (key.includes('+')) return false;
  if (!key.startsWith(prefix) && !prefix.startsWith(`${key}/`)) return false;
  return key > startAfter || `${key}/` > startAfter || startAfter.startsWith(`${key}/`);
}
