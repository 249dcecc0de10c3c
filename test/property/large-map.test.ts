/**
 * The memory of a volumedriver does not grow with its volumes' maps: random reads over a volume of a TiB that is mapped
 * whole (a million map pages, 4 GiB of them) stay under 300 MiB of RSS with --map-memory 16MiB. LARGE_MAP_TIB=n takes
 * another size.
 */
import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import type { NbdClient } from '../../src/nbd/client.ts';
import { AttachSandbox } from '../support/attach-cleanup.ts';
import { buildLargeVolume, type LargeVolume } from '../support/large-map.ts';
import { MiB, RealDriver, tell } from '../support/real-driver.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const TiB = 2 ** 40;
const tebibytes = Number(process.env['LARGE_MAP_TIB'] ?? 1);
const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31);
const clusterBytes = 4096;
const inFlight = 32;
const rssMaxBytes = 300 * MiB;

/** Builds a volume and gives it to `body` in a process of its own. */
async function withVolume(
  sizeBytes: number,
  body: (volume: LargeVolume, driver: RealDriver) => Promise<void>,
): Promise<void> {
  const sandbox = await AttachSandbox.open();
  try {
    const started = performance.now();
    const volume = await buildLargeVolume(sandbox.path, sizeBytes);
    tell(`built ${sizeBytes / TiB} TiB, ${volume.pages} map pages: ${secondsSince(started)} s`);
    const { backendDirectory } = volume;
    const volumedriverFlags = ['--map-memory', '16MiB'];
    const roles = ['volumedriver'] as const;
    const driver = await RealDriver.open({ roles, sandbox, backendDirectory, volumedriverFlags });
    try {
      await body(volume, driver);
    } catch (error) {
      throw new Error(`seed ${seed}; the driver said: ${driver.log()}`, { cause: error });
    } finally {
      await driver.close();
    }
  } finally {
    await sandbox.close();
  }
}

test(`random reads over ${tebibytes} TiB stay under 300 MiB with a map memory of 16 MiB`, async () => {
  await withVolume(tebibytes * TiB, async (volume, driver) => {
    const clusters = volume.sizeBytes / clusterBytes;
    expect(volume.pages).toBeGreaterThanOrEqual(clusters / 256);
    const pid = driver.pid('volumedriver');
    const idleBytes = peakRssBytes(pid);
    let started = performance.now();
    const client = await driver.connect(volume.name);
    await readAndCheck(client, volume, clusters - 1);
    tell(`opened, with its first read: ${secondsSince(started)} s`);
    started = performance.now();
    const random = new SeededRandom(seed);
    const reads = 40_000;
    await inParallel(reads, async () => {
      await readAndCheck(client, volume, random.integer(clusters));
    });
    const rate = Math.round(reads / Number(secondsSince(started)));
    const peakBytes = peakRssBytes(pid);
    tell(`${reads} random reads: ${rate}/s; RSS ${inMiB(idleBytes)}, then ${inMiB(peakBytes)}`);
    expect(driver.pid('volumedriver')).toBe(pid);
    expect(peakBytes).toBeLessThan(rssMaxBytes);
    await client.disconnect();
  });
}, 600_000);

test('a volume that was built is one like any other: snapshots, clones, writes, a restart', async () => {
  await withVolume(1024 * MiB, async (volume, driver) => {
    const clusters = volume.sizeBytes / clusterBytes;
    const random = new SeededRandom(seed);
    const written = new Map<number, Buffer>();
    while (written.size < 2000) written.set(random.integer(clusters), random.bytes(clusterBytes));
    const { id: snapshotId } = await driver.volumes.createSnapshot({
      volume: volume.id,
      name: 'before',
      timeoutSeconds: 0,
    });
    const head = await driver.connect(volume.name);
    const all = [...written];
    await inParallel(all.length, async (n) => {
      const [cluster, data] = all[n] ?? [0, Buffer.alloc(0)];
      await head.write(cluster * clusterBytes, data);
    });
    await head.flush();
    await head.disconnect();
    const source = { kind: 'snapshot', snapshotId } as const;
    await driver.volumes.createVolume({ name: 'clone', sizeBytes: volume.sizeBytes, source });
    await driver.kill('volumedriver');
    await driver.ready();
    for (const name of [volume.name, `${volume.name}@before`, 'clone']) {
      const client = await driver.connect(name);
      const overlay = name === volume.name ? written : new Map<number, Buffer>();
      await inParallel(all.length, async (n) => {
        const cluster = n % 2 === 0 ? (all[n]?.[0] ?? 0) : random.integer(clusters);
        const expected = overlay.get(cluster) ?? volume.content(cluster);
        const data = await client.read(cluster * clusterBytes, clusterBytes);
        if (!data.equals(expected)) throw new Error(`cluster ${cluster} of ${name} is wrong`);
      });
      await client.disconnect();
    }
  });
}, 120_000);

async function readAndCheck(
  client: NbdClient,
  volume: LargeVolume,
  cluster: number,
): Promise<void> {
  const data = await client.read(cluster * clusterBytes, clusterBytes);
  if (!data.equals(volume.content(cluster))) throw new Error(`cluster ${cluster} is wrong`);
}

async function inParallel(count: number, run: (n: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await run(next++);
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
}

/** The most memory that the process ever had at once: proc(5), VmHWM. */
function peakRssBytes(pid: number): number {
  const match = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  if (match === null) throw new Error(`process ${pid} shows no peak of its memory`);
  return Number(match[1]) * 1024;
}

function secondsSince(start: number): string {
  return ((performance.now() - start) / 1000).toFixed(2);
}

function inMiB(bytes: number): string {
  return `${Math.round(bytes / MiB)} MiB`;
}
