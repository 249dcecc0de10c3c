/**
 * Our server beside nbdkit and qemu-nbd: all run at once over volumes of one size on one disk, and each cell is measured on
 * one after the other, in rounds, with a sync of the disk before. Only ratios within one run mean anything.
 */
import { availableParallelism } from 'node:os';
import { cells, fill, measure, type Cell, type Pinning, type Sample } from './fio.ts';
import { rssBytes } from './processes.ts';
import { startServers, type Server } from './servers.ts';
import type { Settings } from './settings.ts';
import { median, short, spread, table } from './statistics.ts';

export interface DataPathResult {
  servers: { name: string; version: string; rssBytes: number }[];
  pinning: Pinning | null;
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
  const servers = await startServers(directory, settings.sizeBytes);
  try {
    for (const server of servers) {
      await fill(server, {
        block: settings.fillBlock,
        sizeBytes: settings.sizeBytes,
        directory,
      });
    }
    const pinning = pinningHere();
    const samples = await rounds(servers, { settings, directory, pinning, say });
    return {
      servers: servers.map(({ name, version, pid }) => ({
        name,
        version,
        rssBytes: rssBytes(pid),
      })),
      pinning,
      cells: cells.map((cell) => resultOf(cell, servers, samples)),
    };
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
}

type Samples = Map<Cell, Map<Server, Sample[]>>;

async function rounds(
  servers: readonly Server[],
  options: {
    settings: Settings;
    directory: string;
    pinning: Pinning | null;
    say: (text: string) => void;
  },
): Promise<Samples> {
  const { settings, directory, pinning, say } = options;
  const samples: Samples = new Map(
    cells.map((cell) => [cell, new Map(servers.map((server) => [server, []]))]),
  );
  for (let round = 0; round < settings.rounds; round++) {
    say(`round ${round + 1} of ${settings.rounds}`);
    for (const cell of cells) {
      for (let turn = 0; turn < servers.length; turn++) {
        const server = servers[(round + turn) % servers.length];
        if (server === undefined) continue;
        const sample = await measure(server, cell, { ...settings, pinning, directory });
        samples.get(cell)?.get(server)?.push(sample);
      }
    }
  }
  return samples;
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
  return `${table([header, ...rows])}\n${table([costHeader, ...cost])}`;
}
