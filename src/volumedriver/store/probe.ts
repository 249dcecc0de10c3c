/**
 * Proves at start that a backend's put-if-absent refuses the second writer: everything that fences an old owner
 * rests on it, and some stores ignore the condition silently.
 */
import type { Random } from '../../base/random.ts';
import { VolumeError } from '../../volumes/errors.ts';
import type { ObjectStore } from './object-store.ts';

export const probePrefix = 'probe/';

/** NOT_CAPABLE, saying what went wrong, when the store's put-if-absent cannot be trusted. Leaves nothing behind. */
export async function probePutIfAbsent(store: ObjectStore, random: Random): Promise<void> {
  const name = random.bytes(16).toString('hex');
  const keys = [`${probePrefix}${name}-a`, `${probePrefix}${name}-b`] as const;
  try {
    await probeInTurn(store, keys[0]);
    await probeAtOnce(store, keys[1]);
  } finally {
    await Promise.all(keys.map((key) => store.delete(key)));
  }
}

async function probeInTurn(store: ObjectStore, key: string): Promise<void> {
  const first = Buffer.from('first');
  if (!(await store.putIfAbsent(key, [first]))) {
    throw incapable(store, 'it refuses an object whose key is free');
  }
  if (await store.putIfAbsent(key, [Buffer.from('second')])) {
    throw incapable(store, 'it accepts a second object under the same key');
  }
  const stored = await store.get(key);
  if (stored?.equals(first) !== true) {
    throw incapable(store, 'the refused object replaced the first, or the first is gone');
  }
}

async function probeAtOnce(store: ObjectStore, key: string): Promise<void> {
  const contents = ['0', '1', '2', '3'].map((text) => Buffer.from(text));
  const created = await Promise.all(contents.map((data) => store.putIfAbsent(key, [data])));
  const winners = contents.filter((_, index) => created[index]);
  const [winner] = winners;
  if (winner === undefined || winners.length !== 1) {
    throw incapable(store, `of 4 writers at once it accepted ${winners.length}`);
  }
  const stored = await store.get(key);
  if (stored?.equals(winner) !== true) {
    throw incapable(store, 'the object is not that of the writer it accepted');
  }
}

function incapable(store: ObjectStore, why: string): VolumeError {
  return new VolumeError(
    'NOT_CAPABLE',
    `backend ${store.description} cannot be used: put-if-absent does not work: ${why}`,
  );
}
