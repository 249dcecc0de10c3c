/**
 * What snapshots, clones and opening cost, by how much of a volume is mapped: each volume has a map of its full size.
 * All is done through the API and NBD of a volumedriver of its own, with the map memory that it has by default.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { VolumedriverClient } from '../src/api/volumedriver-client.ts';
import { connectNbd, type NbdClient } from '../src/nbd/client.ts';
import { formatNbdUri } from '../src/nbd/uri.ts';
import { buildLargeVolume, type LargeVolume } from '../test/support/large-map.ts';
import { rssBytes, startDaemon, type Daemon } from './processes.ts';
import { volumedriverBinary } from './servers.ts';
import { median, short, table } from './statistics.ts';

const clusterBytes = 4096;
const opens = 5;
const syncSeconds = 60;

export interface MappedResult {
  mappedGiB: number;
  mapPages: number;
  buildSeconds: number;
  /** Start of the process (after a kill -9) until its first answer, and from there to the first 4 KiB read. */
  startMs: number[];
  firstReadMs: number[];
  writeBeforeMs: number[];
  snapshotMs: number[];
  /** The first 4 KiB write behind each snapshot, and one more. */
  firstWriteMs: number[];
  secondWriteMs: number[];
  /** From the snapshot's creation until it is in the backend. */
  syncedMs: number[];
  cloneMs: number[];
  cloneReadMs: number[];
  rssOpenBytes: number;
  rssEndBytes: number;
}

/** A volumedriver over the large volume. */
interface Driver {
  daemon: Daemon;
  api: VolumedriverClient;
  readonly connect: (exportName: string) => Promise<NbdClient>;
}

export async function measureMapped(
  mappedGiB: number,
  options: { repetitions: number; directory: string },
): Promise<MappedResult> {
  const directory = join(options.directory, `mapped-${mappedGiB}`);
  await mkdir(directory);
  try {
    const startMs = performance.now();
    const volume = await buildLargeVolume(directory, mappedGiB * 2 ** 30);
    const buildSeconds = (performance.now() - startMs) / 1000;
    const opened = await measureOpens(volume, directory);
    const { driver } = opened;
    try {
      const rssOpenBytes = rssBytes(driver.daemon.pid);
      const steps = await measureSteps(volume, driver, options.repetitions);
      const rssEndBytes = rssBytes(driver.daemon.pid);
      const memory = { rssOpenBytes, rssEndBytes };
      const { startMs: starts, firstReadMs } = opened;
      const { pages: mapPages } = volume;
      return {
        ...{ mappedGiB, mapPages, buildSeconds, startMs: starts, firstReadMs },
        ...steps,
        ...memory,
      };
    } finally {
      await stop(driver, 'SIGTERM');
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function measureOpens(
  volume: LargeVolume,
  directory: string,
): Promise<Pick<MappedResult, 'startMs' | 'firstReadMs'> & { driver: Driver }> {
  const startMs: number[] = [];
  const firstReadMs: number[] = [];
  for (;;) {
    const beginMs = performance.now();
    const driver = await start(volume, directory);
    const readyMs = performance.now();
    const client = await driver.connect(volume.name);
    await check(client, volume, Math.floor(Math.random() * (volume.sizeBytes / clusterBytes)));
    startMs.push(readyMs - beginMs);
    firstReadMs.push(performance.now() - readyMs);
    await client.disconnect();
    if (startMs.length === opens) return { startMs, firstReadMs, driver };
    await stop(driver, 'SIGKILL');
  }
}

async function measureSteps(
  volume: LargeVolume,
  { api, connect }: Driver,
  repetitions: number,
): Promise<
  Omit<
    MappedResult,
    | 'mappedGiB'
    | 'mapPages'
    | 'buildSeconds'
    | 'startMs'
    | 'firstReadMs'
    | 'rssOpenBytes'
    | 'rssEndBytes'
  >
> {
  const times = {
    ...{ writeBeforeMs: [] as number[], snapshotMs: [] as number[], firstWriteMs: [] as number[] },
    ...{ secondWriteMs: [] as number[], syncedMs: [] as number[] },
    ...{ cloneMs: [] as number[], cloneReadMs: [] as number[] },
  };
  const clusters = volume.sizeBytes / clusterBytes;
  const data = Buffer.alloc(clusterBytes, 0xa5);
  const head = await connect(volume.name);
  const write = (cluster: number): Promise<void> => head.write(cluster * clusterBytes, data);
  for (let n = 0; n < repetitions; n++) {
    const cluster = Math.floor((clusters * (n + 0.5)) / repetitions);
    times.writeBeforeMs.push(await timed(() => write(cluster)));
    const ref = { volume: volume.id, name: `s${n}`, timeoutSeconds: -1 };
    const beginMs = performance.now();
    const snapshot = await api.createSnapshot(ref);
    times.snapshotMs.push(performance.now() - beginMs);
    times.firstWriteMs.push(await timed(() => write(cluster)));
    times.secondWriteMs.push(await timed(() => write(cluster)));
    await api.waitSnapshot({ volume: volume.id, snapshot: snapshot.id }, syncSeconds);
    times.syncedMs.push(performance.now() - beginMs);
    const source = { kind: 'snapshot', snapshotId: snapshot.id } as const;
    const name = `clone-${n}`;
    const { sizeBytes } = volume;
    times.cloneMs.push(await timed(() => api.createVolume({ name, sizeBytes, source })));
    times.cloneReadMs.push(
      await timed(async () => {
        const clone = await connect(name);
        await check(clone, volume, cluster === 0 ? 1 : cluster - 1);
        await clone.disconnect();
      }),
    );
  }
  await head.disconnect();
  return times;
}

async function start(volume: LargeVolume, directory: string): Promise<Driver> {
  const socket = join(directory, 'nbd.sock');
  const apiSocket = join(directory, 'api.sock');
  const daemon = await startDaemon(
    [
      ...[volumedriverBinary, 'volumedriver', '--data-dir', join(directory, 'data')],
      ...['--backend', `file:${volume.backendDirectory}`, '--node-id', 'node-1', '--grace', '1'],
      ...['--nbd', `unix:${socket}`, '--api', `unix:${apiSocket}`],
    ],
    { socket, log: join(directory, 'log') },
  );
  const address = { kind: 'unix', path: socket } as const;
  const api = new VolumedriverClient({ kind: 'unix', path: apiSocket });
  const connect = async (exportName: string): Promise<NbdClient> =>
    await connectNbd(formatNbdUri({ address, exportName }));
  return { daemon, api, connect };
}

async function stop({ daemon, api }: Driver, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  api.close();
  await daemon.stop(signal);
}

async function check(client: NbdClient, volume: LargeVolume, cluster: number): Promise<void> {
  const data = await client.read(cluster * clusterBytes, clusterBytes);
  if (!data.equals(volume.content(cluster))) throw new Error(`cluster ${cluster} is wrong`);
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await action();
  return performance.now() - startMs;
}

const rows: readonly (readonly [string, (result: MappedResult) => number])[] = [
  ['process start, ms', ({ startMs }) => median(startMs)],
  ['open to first 4 KiB read, ms', ({ firstReadMs }) => median(firstReadMs)],
  ['4 KiB write before, ms', ({ writeBeforeMs }) => median(writeBeforeMs)],
  ['snapshot create, ms', ({ snapshotMs }) => median(snapshotMs)],
  ['first 4 KiB write behind it, ms', ({ firstWriteMs }) => median(firstWriteMs)],
  ['second write, ms', ({ secondWriteMs }) => median(secondWriteMs)],
  ['snapshot in the backend, ms', ({ syncedMs }) => median(syncedMs)],
  ['clone create, ms', ({ cloneMs }) => median(cloneMs)],
  ['clone open to first read, ms', ({ cloneReadMs }) => median(cloneReadMs)],
  ['RSS after opening, MiB', ({ rssOpenBytes }) => rssOpenBytes / 2 ** 20],
  ['RSS at the end, MiB', ({ rssEndBytes }) => rssEndBytes / 2 ** 20],
  ['map pages, thousands', ({ mapPages }) => mapPages / 1000],
];

export function describeMapped(results: readonly MappedResult[]): string {
  const [first] = results;
  if (first === undefined) return '';
  const repetitions = first.snapshotMs.length;
  const header = [`medians of ${repetitions} (opens: ${opens})`];
  for (const { mappedGiB } of results) header.push(`${mappedGiB} GiB mapped`);
  return table([
    header,
    ...rows.map(([what, of]) => [what, ...results.map((result) => short(of(result)))]),
  ]);
}
