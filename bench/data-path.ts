/**
 * Our server beside nbdkit and qemu-nbd: all run at once over volumes of one size on one disk, and each cell is measured on
 * one after the other, in rounds, with a sync of the disk before. Only ratios within one run mean anything.
 */
import { availableParallelism } from 'node:os';
import {
  cells,
  fill,
  fillCell,
  measure,
  type Cell,
  type MeasureOptions,
  type Pinning,
  type Sample,
} from './fio.ts';
import { memoryCost, type MemoryCost } from './memory.ts';
import { rssBytes } from './processes.ts';
import { startServers, type Server } from './servers.ts';
import type { Settings } from './settings.ts';
import { median, short, spread, table } from './statistics.ts';

export interface DataPathResult {
  servers: { name: string; version: string; rssBytes: number }[];
  pinning: Pinning | null;
  memory: MemoryCost;
  cells: {
    name: string;
    what: string;
    samples: Record<string, Sample[]>;
    /** Of medians: ours by each other's. */
    ratios: Record<string, number>;
  }[];
}

export async function compareDataPaths(
  settings: Settings,
  directory: string,
  say: (text: string) => void,
): Promise<DataPathResult> {
  const memory = memoryCost(directory);
  const servers = await startServers(directory, settings.sizeBytes);
  try {
    const { seconds, sizeBytes } = settings;
    const pinning = pinningHere();
    const options = { seconds, sizeBytes, pinning, directory };
    const samples: Samples = new Map();
    const first = fillCell(settings.fillBlock);
    say('first fill');
    for (const server of servers) keep(samples, first, server, await fill(server, first, options));
    for (let round = 0; round < settings.rounds; round++) {
      say(`round ${round + 1} of ${settings.rounds}`);
      await oneRound(round, servers, { samples, options });
    }
    return {
      servers: servers.map(({ name, version, pid }) => ({
        name,
        version,
        rssBytes: rssBytes(pid),
      })),
      ...{ pinning, memory },
      cells: [first, ...cells].map((cell) => resultOf(cell, servers, samples)),
    };
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
}

type Samples = Map<Cell, Map<Server, Sample[]>>;

function keep(samples: Samples, cell: Cell, server: Server, sample: Sample): void {
  const ofCell = samples.get(cell) ?? new Map<Server, Sample[]>();
  samples.set(cell, ofCell);
  ofCell.set(server, [...(ofCell.get(server) ?? []), sample]);
}

async function oneRound(
  round: number,
  servers: readonly Server[],
  { samples, options }: { samples: Samples; options: MeasureOptions },
): Promise<void> {
  for (const cell of cells) {
    for (let turn = 0; turn < servers.length; turn++) {
      const server = servers[(round + turn) % servers.length];
      if (server === undefined) continue;
      keep(samples, cell, server, await measure(server, cell, options));
    }
  }
}

function resultOf(
  cell: Cell,
  servers: readonly Server[],
  samples: Samples,
): DataPathResult['cells'][number] {
  const of = (server: Server): Sample[] => samples.get(cell)?.get(server) ?? [];
  const [ours, ...others] = servers;
  const speed = (server: Server | undefined): number =>
    server === undefined ? NaN : median(of(server).map(({ iops }) => iops));
  return {
    name: cell.name,
    what: cell.what,
    samples: Object.fromEntries(servers.map((server) => [server.name, of(server)])),
    ratios: Object.fromEntries(others.map((server) => [server.name, speed(ours) / speed(server)])),
  };
}

/** Two CPUs at least: one for fio, one for the server. */
function pinningHere(): Pinning | null {
  const count = availableParallelism();
  return count < 2 ? null : { client: '1', server: '0', all: `0-${count - 1}` };
}

export function describeDataPaths(result: DataPathResult): string {
  const names = result.servers.map(({ name }) => name);
  const others = names.slice(1);
  const header = [
    'thousand requests a second',
    ...names.flatMap((name) => [name, 'min..max']),
    ...others.map((name) => `ours/${name}`),
  ];
  const rows = result.cells.map(({ what, samples, ratios }) => [
    what,
    ...names.flatMap((name) => {
      const { min, median: middle, max } = spread((samples[name] ?? []).map(({ iops }) => iops));
      return [short(middle / 1000), `${short(min / 1000)}..${short(max / 1000)}`];
    }),
    ...others.map((name) => (ratios[name] ?? NaN).toFixed(2)),
  ]);
  const cost = result.cells.map(({ what, samples }) => [
    what,
    ...names.flatMap((name) => {
      const all = samples[name] ?? [];
      const of = (field: keyof Sample): string => short(median(all.map((one) => one[field])));
      return [of('cpuUsPerRequest'), of('p50Us'), of('p99Us')];
    }),
  ]);
  const costHeader = [
    'microseconds a request',
    ...names.flatMap((name) => [`${name} CPU`, 'p50', 'p99']),
  ];
  return `${table([header, ...rows])}\n${table([costHeader, ...cost])}\n${describeMemory(result)}`;
}

function describeMemory({ memory, servers }: DataPathResult): string {
  const { freshMs, overwriteMs } = memory;
  const rss = servers.map(({ name, rssBytes }) => `${name} ${short(rssBytes / 2 ** 20)} MiB`);
  return (
    `A write(2) of 1 MiB took ${short(overwriteMs)} ms over cached data and ${short(freshMs)} ms into a new file. ` +
    `RSS at the end: ${rss.join(', ')}.\n`
  );
}
