/** What an engine stands on: everything outside it comes in here, so that a simulation can own all of it. */
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import type { Disk } from './disk/disk.ts';
import type { PagePool } from './map/page-pool.ts';
import type { ObjectReader } from './object-reader.ts';
import type { ObjectStore } from './store/object-store.ts';
import type { SpaceGuard } from './space-guard.ts';

export interface Environment {
  disk: Disk;
  store: ObjectStore;
  clock: Clock;
  random: Random;
  logger: Logger;
  pool: PagePool;
  reader: ObjectReader;
  space: SpaceGuard;
  /** The data directory of this volumedriver. */
  dataDirectory: string;
  /** A writer id that nobody ever had (design: numbered backend-wide). */
  takeWriter(volume: string): Promise<number>;
  limits: EngineLimits;
}

export interface EngineLimits {
  /** A sync is begun behind the writers' backs when so many bytes are not durable. */
  earlySyncBytes: number;
  /** Writers wait for a sync when so many bytes are not durable. */
  unsyncedBytesMax: number;
  /** A TLog is committed when its records reach so many bytes. */
  tlogBytesMax: number;
  /** A checkpoint is due when opening the volume would replay so many bytes of records. */
  replayBytesMax: number;
}

export const defaultLimits: EngineLimits = {
  earlySyncBytes: 64 * 2 ** 20,
  unsyncedBytesMax: 256 * 2 ** 20,
  tlogBytesMax: 2 ** 20,
  replayBytesMax: 64 * 2 ** 20,
};

export function volumeDirectory(
  environment: Pick<Environment, 'dataDirectory'>,
  id: string,
): string {
  return `${environment.dataDirectory}/volumes/${id}`;
}
