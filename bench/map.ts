/**
 * How fast the volume map is: fills a volume's map with persists on the way, then looks up and overwrites at random.
 * Prints rates and resident memory; judges nothing. Usage: node bench/map.ts [GiB] [map memory in MiB] [directory]
 */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writevSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { LinuxDisk } from '../src/volumedriver/disk/linux-disk.ts';
import { counterOf, makeObjectId } from '../src/volumedriver/format/location.ts';
import { PagePool } from '../src/volumedriver/map/page-pool.ts';
import type { PageSource, PersistedRoot } from '../src/volumedriver/map/page.ts';
import { VolumeMap, type MapObjectWriter } from '../src/volumedriver/map/volume-map.ts';

const [sizeGiB = '1024', memoryMiB = '16', parent = tmpdir()] = process.argv.slice(2);
const sizeClusters = Number(sizeGiB) * 2 ** 18;
const directory = mkdtempSync(join(parent, 'map-bench-'));
const objectBytes = 2 ** 24;
const backendWriter = 9;

/** Map objects one behind the other in one file. */
class FileBackend implements PageSource, MapObjectWriter {
  readonly #file = openSync(join(directory, 'objects'), 'w+');
  #objects = 0;
  pages = 0;

  allocateObject(): number {
    return makeObjectId(backendWriter, this.#objects++);
  }

  async writeObject(objectId: number, _birth: number, pages: readonly Uint8Array[]): Promise<void> {
    this.pages += pages.length;
    const start = counterOf(objectId) * objectBytes;
    for (let n = 0; n < pages.length; n += 1024) {
      writevSync(this.#file, pages.slice(n, n + 1024), start + n * 4096);
    }
  }

  read(objectId: number, index: number, into: Uint8Array): true {
    readSync(this.#file, into, 0, into.length, counterOf(objectId) * objectBytes + index * 4096);
    return true;
  }

  close(): void {
    closeSync(this.#file);
  }
}

const backend = new FileBackend();
const disk = new LinuxDisk();
const pool = new PagePool({
  memoryBytes: Number(memoryMiB) * 2 ** 20,
  openSpill: () => disk.create(join(directory, 'spill')),
});
let released = 0;
let peakRss = 0;
let cpuBefore = 0;

function open(root: PersistedRoot | null): VolumeMap {
  return new VolumeMap({
    pool,
    source: backend,
    sizeClusters,
    root,
    interval: 1,
    clock: systemClock,
    onRelease: () => released++,
    onFailure: (error) => {
      throw error;
    },
  });
}

function say(what: string, operations: number, startMs: number): void {
  const ms = performance.now() - startMs;
  const cpu = process.cpuUsage();
  const cpuSeconds = ((cpu.user + cpu.system - cpuBefore) / 1e6).toFixed(2);
  cpuBefore = cpu.user + cpu.system;
  const rss = process.memoryUsage.rss();
  peakRss = Math.max(peakRss, rss);
  const rate = Math.round(operations / ms);
  process.stdout.write(
    `${what.padEnd(52)} ${(ms / 1000).toFixed(2).padStart(8)} s cpu ${cpuSeconds} s ${String(rate).padStart(8)} k/s` +
      `  rss ${Math.round(rss / 2 ** 20)} MiB\n`,
  );
}

async function checkpoint(map: VolumeMap): Promise<PersistedRoot | null> {
  const frozen = map.freeze();
  const [root] = await map.persist([frozen], backend);
  frozen.release();
  return root ?? null;
}

async function fill(map: VolumeMap): Promise<void> {
  const start = performance.now();
  const checksums = new Uint32Array(4096).fill(7);
  let persisting: Promise<unknown> = Promise.resolve();
  for (let cluster = 0, n = 0; cluster < sizeClusters; cluster += 4096, n++) {
    map.setRun(cluster, makeObjectId(1 + (n >>> 20), n & 0xfffff), 0, checksums);
    await map.pressure();
    if (n % 1024 === 1023) {
      await persisting;
      persisting = checkpoint(map);
      peakRss = Math.max(peakRss, process.memoryUsage.rss());
    }
  }
  await persisting;
  say('fill by 16 MiB runs, persisting on the way (clusters)', sizeClusters, start);
}

function randomCluster(end: number): number {
  return Math.floor(Math.random() * end);
}

async function lookups(map: VolumeMap, what: string, end: number, count: number): Promise<void> {
  await map.lookup(0, 1);
  const start = performance.now();
  let waited = 0;
  for (let n = 0; n < count; n++) {
    const runs = map.lookup(randomCluster(end), 1);
    if (!Array.isArray(runs)) {
      waited++;
      await runs;
    }
  }
  say(`${what}${waited > 0 ? `, ${waited} waited` : ''}`, count, start);
}

async function overwrite(map: VolumeMap, end: number, count: number): Promise<void> {
  const start = performance.now();
  const checksums = Uint32Array.of(9);
  const before = released;
  for (let n = 0; n < count; n++) {
    map.setRun(randomCluster(end), makeObjectId(7, n >>> 12), n & 4095, checksums);
    await map.pressure();
  }
  await map.drained();
  say(`random 4 KiB updates, ${released - before} released`, count, start);
}

try {
  const map = open(null);
  await fill(map);
  const root = await checkpoint(map);
  process.stdout.write(`pages written: ${backend.pages}, dirty slots left: ${pool.dirty.count}\n`);
  const hot = Math.min(sizeClusters, 2 ** 18);
  for (let cluster = 0; cluster < hot; cluster += 256) await map.lookup(cluster, 1);
  await lookups(map, 'random 4 KiB look-ups in 1 GiB', hot, 2_000_000);
  await lookups(map, 'random 4 KiB look-ups anywhere', sizeClusters, 200_000);
  await overwrite(map, hot, 1_000_000);
  await overwrite(map, sizeClusters, 200_000);
  let start = performance.now();
  await checkpoint(map);
  say('checkpoint of those updates (pages)', backend.pages, start);
  start = performance.now();
  map.clearRange(0, sizeClusters);
  await map.drained();
  say('clear everything (clusters)', sizeClusters, start);
  map.close();
  const again = open(root);
  await lookups(again, 'the first checkpoint reopened, look-ups anywhere', sizeClusters, 100_000);
  again.close();
  process.stdout.write(`peak rss ${Math.round(peakRss / 2 ** 20)} MiB\n`);
} finally {
  pool.close();
  backend.close();
  rmSync(directory, { recursive: true, force: true });
}
