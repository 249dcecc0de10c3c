/**
 * Puts an engine together: what a volumedriver needs of its backend and its data directory before the first volume is
 * opened. Everything outside (disk, store, clock, randomness) is an argument.
 */
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { VolumeError, hasCode } from '../volumes/errors.ts';
import type { Disk } from './disk/disk.ts';
import { defaultLimits, type EngineLimits, type Environment } from './environment.ts';
import { keys, numberOfKey } from './keys.ts';
import { PagePool } from './map/page-pool.ts';
import { ObjectReader } from './object-reader.ts';
import { SpaceGuard } from './space-guard.ts';
import type { ObjectStore } from './store/object-store.ts';
import { probePutIfAbsent } from './store/probe.ts';

export interface EngineOptions {
  disk: Disk;
  store: ObjectStore;
  clock: Clock;
  random: Random;
  logger: Logger;
  /** Exists and belongs to this process alone. */
  dataDirectory: string;
  mapMemoryBytes: number;
  readCacheBytes: number;
  reserveBytes: number;
  limits?: Partial<EngineLimits>;
}

export interface Engine {
  environment: Environment;
  backendId: string;
}

/** NOT_CAPABLE when the backend can't fence, CORRUPT when it is another version's. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { disk, store, clock, random, logger, dataDirectory } = options;
  disk.makeDirectory(`${dataDirectory}/volumes`);
  await disk.syncDirectory(dataDirectory);
  const space = new SpaceGuard({
    disk,
    logger,
    directory: dataDirectory,
    reserveBytes: options.reserveBytes,
  });
  await space.restore();
  await withReserve(space, () => probePutIfAbsent(store, random));
  const backendId = await readBackendId(store, random);
  const writers = new WriterIds(store);
  const environment: Environment = {
    disk,
    store,
    clock,
    random,
    logger,
    pool: new PagePool({
      memoryBytes: options.mapMemoryBytes,
      openSpill: () => openSpill(disk, dataDirectory),
    }),
    reader: new ObjectReader({ disk, store, cacheBytes: options.readCacheBytes }),
    space,
    dataDirectory,
    takeWriter: (volume) => writers.take(volume),
    limits: { ...defaultLimits, ...options.limits },
  };
  return { environment, backendId };
}

/** A disk that is full at the start must not keep away the only one who can delete something: gives up the reserve then. */
async function withReserve(space: SpaceGuard, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (!hasCode(error, 'OUT_OF_SPACE') || space.full) throw error;
    space.diskIsFull();
    await write();
  }
}

/** Map pages that don't fit into memory; worthless after a restart. */
function openSpill(disk: Disk, dataDirectory: string): ReturnType<Disk['create']> {
  const path = `${dataDirectory}/spill`;
  disk.remove(path);
  return disk.create(path);
}

/** The backend's own name, made at the first start: it is part of every volume's id. */
async function readBackendId(store: ObjectStore, random: Random): Promise<string> {
  const fresh = { format: 1, id: random.bytes(5).toString('hex') };
  await store.putIfAbsent(keys.backend, [Buffer.from(JSON.stringify(fresh))]);
  const bytes = await store.get(keys.backend);
  const record = parseBackend(bytes?.toString('utf8') ?? '');
  if (record?.format === 1) return record.id;
  throw new VolumeError(
    'CORRUPT',
    `opening backend ${store.description}: its '${keys.backend}' record is not one of this version`,
  );
}

function parseBackend(text: string): { format: unknown; id: string } | undefined {
  try {
    const record = JSON.parse(text) as { format?: unknown; id?: unknown } | null;
    if (typeof record?.id !== 'string' || !/^[A-Za-z0-9-]{1,64}$/.test(record.id)) return undefined;
    return { format: record.format, id: record.id };
  } catch {
    return undefined; // not JSON: said by the caller
  }
}

/** Writer ids are numbered backend-wide and never given twice; each belongs to one open of one volume. */
class WriterIds {
  readonly #store: ObjectStore;
  #next: number | null = null;

  constructor(store: ObjectStore) {
    this.#store = store;
  }

  async take(volume: string): Promise<number> {
    this.#next ??= (await this.#highest()) + 1;
    const record = [Buffer.from(JSON.stringify({ volume }))];
    for (;;) {
      const writer = this.#next++;
      if (await this.#store.putIfAbsent(keys.writer(writer), record)) return writer;
    }
  }

  async #highest(): Promise<number> {
    let startAfter: string = keys.writerPrefix;
    for (;;) {
      const page = await this.#store.list(keys.writerPrefix, { startAfter, limit: 1000 });
      const last = page.at(-1)?.key;
      if (last === undefined) break;
      startAfter = last;
    }
    return startAfter === keys.writerPrefix ? 0 : numberOfKey(startAfter);
  }
}
