/**
 * Records of the backend that lead nowhere, because a process died between them and what they were made for: names and
 * snapshot records without their volume or snapshot, and objects of an interrupted probe. They would stay for ever.
 * Only for a backend that nobody else uses: elsewhere another volumedriver may be about to make what they lead to.
 */
import { hasCode } from '../../volumes/errors.ts';
import { keys } from '../keys.ts';
import { probePrefix } from '../store/probe.ts';
import type { ServiceContext } from './context.ts';

/** Called at start, before the first request. */
export async function deleteStrayRecords(context: ServiceContext): Promise<void> {
  const { store } = context.environment;
  for await (const key of keysUnder(context, keys.volumeNamePrefix)) {
    const { id } = await readRecord(context, key);
    if (id !== undefined && !isVolume(context, id)) await store.delete(key);
  }
  for (const prefix of [keys.snapshotNamePrefix, keys.snapshotPrefix]) {
    for await (const key of keysUnder(context, prefix)) {
      const { snapshot, volume } = await readRecord(context, key);
      if (snapshot === undefined || volume === undefined) continue;
      if (!isSnapshot(context, volume, snapshot)) await store.delete(key);
    }
  }
  for await (const key of keysUnder(context, probePrefix)) await store.delete(key);
}

async function* keysUnder({ environment }: ServiceContext, prefix: string): AsyncGenerator<string> {
  for (let startAfter = prefix; ;) {
    const page = await environment.store.list(prefix, { startAfter, limit: 1000 });
    for (const { key } of page) yield key;
    const last = page.at(-1)?.key;
    if (last === undefined) return;
    startAfter = last;
  }
}

function isVolume({ catalog }: ServiceContext, id: string): boolean {
  const entry = catalog.byId(id);
  return entry === undefined ? catalog.isDamaged(id) : !catalog.stateOf(entry).removed;
}

function isSnapshot({ catalog }: ServiceContext, volume: string, snapshot: string): boolean {
  const entry = catalog.byId(volume);
  if (entry === undefined) return catalog.isDamaged(volume);
  return catalog.stateOf(entry).snapshots.some(({ id, hidden }) => id === snapshot && !hidden);
}

/** Its fields that are strings; a record that can't be read is left alone. */
async function readRecord(
  { environment }: ServiceContext,
  key: string,
): Promise<Partial<Record<string, string>>> {
  try {
    const bytes = await environment.store.get(key);
    const record = JSON.parse(bytes?.toString('utf8') ?? '{}') as unknown;
    if (typeof record !== 'object' || record === null) return {};
    return Object.fromEntries(
      Object.entries(record).flatMap(([name, value]) =>
        typeof value === 'string' ? [[name, value]] : [],
      ),
    );
  } catch (error) {
    if (error instanceof SyntaxError || hasCode(error, 'CORRUPT')) return {};
    throw error;
  }
}
