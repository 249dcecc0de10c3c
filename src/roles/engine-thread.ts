/** The engine's thread: it owns the data directory, the volumes and the NBD server. Started by roles/volumedriver.ts. */
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { systemClock } from '../base/clock.ts';
import { createLogger } from '../base/logger.ts';
import { systemRandom } from '../base/random.ts';
import type { VolumedriverConfig } from '../config.ts';
import { NbdServer } from '../nbd/server.ts';
import { formatNbdUri } from '../nbd/uri.ts';
import { lockDirectory } from '../volumedriver/disk/directory-lock.ts';
import { LinuxDisk } from '../volumedriver/disk/linux-disk.ts';
import { openEngine } from '../volumedriver/engine.ts';
import { VolumeExports } from '../volumedriver/service/exports.ts';
import { Volumedriver } from '../volumedriver/service/volumedriver.ts';
import { FileStore } from '../volumedriver/store/file-store.ts';
import { assert } from '../base/assert.ts';
import { serveThroughPort } from './engine-port.ts';
import { describeFailure } from './failure.ts';

export interface EngineThreadData {
  config: VolumedriverConfig;
  version: string;
  /** Carries the calls of the VolumeService. */
  port: MessagePort;
}

export type EngineThreadMessage =
  { kind: 'listening' } | { kind: 'failed'; message: string } | { kind: 'closed' };

/** No key of the store has a '+'. A backend that is a directory has one volumedriver: it knows of no other's volumes. */
const backendLockName = '+lock';
/** How long requests in flight may take once clients are cut. */
const drainMs = 5000;
/**
 * How long closing may take in all. The volumes give up earlier on a backend that refuses; this is for one that hangs.
 * What it lacks is in the local log, and the next start goes on with it.
 */
const storeMs = 25_000;

async function main(): Promise<void> {
  assert(parentPort !== null, 'this file runs as a thread');
  const parent = parentPort;
  const tell = (message: EngineThreadMessage): void => {
    parent.postMessage(message);
  };
  try {
    const { close } = await start(workerData as EngineThreadData);
    parent.once('message', () => {
      void close().finally(() => {
        tell({ kind: 'closed' });
      });
    });
    tell({ kind: 'listening' });
  } catch (error) {
    tell({ kind: 'failed', message: describeFailure(error) });
  }
}

async function start({ config, version, port }: EngineThreadData): Promise<{
  close: () => Promise<void>;
}> {
  const logger = createLogger(config.logLevel, {
    role: 'volumedriver',
    nodeId: config.nodeId,
    version,
  });
  const disk = new LinuxDisk();
  disk.makeDirectory(config.dataDirectory);
  const holder = `process ${process.pid}`;
  const lock = lockDirectory(config.dataDirectory, holder);
  disk.makeDirectory(config.backendDirectory);
  const backendLock = lockDirectory(config.backendDirectory, holder, backendLockName);
  const store = await FileStore.open({ disk, root: config.backendDirectory, random: systemRandom });
  const { environment, backendId } = await openEngine({
    disk,
    store,
    clock: systemClock,
    random: systemRandom,
    logger,
    dataDirectory: config.dataDirectory,
    mapMemoryBytes: config.mapMemoryBytes,
    readCacheBytes: config.readCacheBytes,
    reserveBytes: config.reserveBytes,
  });
  const service = new Volumedriver(environment, {
    version,
    nodeId: config.nodeId,
    backendId,
    shared: false,
    defaultFlushTo: 'local',
    exportUri: (exportName) => formatNbdUri({ address: config.nbd, exportName }),
  });
  await service.start();
  const exports = new VolumeExports(service.catalog, environment.reader);
  const server = new NbdServer({ exports, logger });
  await server.listen(config.nbd);
  serveThroughPort(port, service);
  return {
    close: async () => {
      await server.close({ graceMs: server.clientCount > 0 ? config.graceMs : 0, drainMs });
      if (await endsInTime(service.close())) {
        backendLock.release();
        lock.release();
      } else {
        // The locks stay until the process is gone: its uploads may still be running.
        logger.warn('the backend takes too long: what it lacks stays in the data directory', {
          waitedMs: storeMs,
        });
      }
      port.close();
    },
  };
}

async function endsInTime(closing: Promise<void>): Promise<boolean> {
  const done = new AbortController();
  const late = systemClock.sleep(storeMs, done.signal).then(
    () => false,
    () => true, // closed before
  );
  try {
    return await Promise.race([closing.then(() => true), late]);
  } finally {
    done.abort();
  }
}

void main();
