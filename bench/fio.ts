/** Cells of the comparison, and fio to measure one of them. */
import { z } from 'zod';
import { cpuSeconds, run } from './processes.ts';
import type { Server } from './servers.ts';

export interface Cell {
  readonly name: string;
  readonly what: string;
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write' | 'trim';
  readonly block: string;
  readonly depth: number;
  /** A flush after so many writes. */
  readonly flushEvery?: number;
  /** The volume is discarded before. */
  readonly discarded?: boolean;
  /** The whole volume once, instead of a time. */
  readonly whole?: boolean;
}

/** In this order: the first cell lays the volume out anew in each round, the last finds it in fragments. */
export const cells: readonly Cell[] = [
  {
    ...{ name: 'sw1me', what: 'seq write 1 MiB QD4, discarded', rw: 'write' as const },
    ...{ block: '1m', depth: 4, whole: true, discarded: true },
  },
  { name: 'sw1m', what: 'seq write 1 MiB QD4, over old data', rw: 'write', block: '1m', depth: 4 },
  { name: 'sr1m', what: 'seq read 1 MiB QD4', rw: 'read', block: '1m', depth: 4 },
  { name: 'sr64k', what: 'seq read 64 KiB QD16', rw: 'read', block: '64k', depth: 16 },
  { name: 'sw64k', what: 'seq write 64 KiB QD16', rw: 'write', block: '64k', depth: 16 },
  { name: 'rr1', what: 'random read 4 KiB QD1', rw: 'randread', block: '4k', depth: 1 },
  { name: 'rr32', what: 'random read 4 KiB QD32', rw: 'randread', block: '4k', depth: 32 },
  { name: 'rw1', what: 'random write 4 KiB QD1', rw: 'randwrite', block: '4k', depth: 1 },
  { name: 'rw32', what: 'random write 4 KiB QD32', rw: 'randwrite', block: '4k', depth: 32 },
  {
    ...{ name: 'rwf32', what: 'the same, flush every 32', rw: 'randwrite' as const },
    ...{ block: '4k', depth: 32, flushEvery: 32 },
  },
  { name: 'sr1mf', what: 'seq read 1 MiB after those', rw: 'read', block: '1m', depth: 4 },
];

export interface Sample {
  iops: number;
  bytesPerSecond: number;
  p50Us: number;
  p99Us: number;
  /** Of the server, per request. */
  cpuUsPerRequest: number;
}

const direction = z.object({
  total_ios: z.number(),
  iops: z.number(),
  bw_bytes: z.number(),
  clat_ns: z.object({ percentile: z.record(z.string(), z.number()).optional() }),
});
const output = z.object({
  jobs: z.array(z.object({ error: z.number(), read: direction, write: direction })).length(1),
});

/** Where fio and a server run in cells with one request at a time: else chance decides whether they share a CPU. */
export interface Pinning {
  readonly client: string;
  readonly server: string;
  readonly all: string;
}

export interface MeasureOptions {
  seconds: number;
  sizeBytes: number;
  pinning: Pinning | null;
  directory: string;
}

export async function measure(
  server: Server,
  cell: Cell,
  options: MeasureOptions,
): Promise<Sample> {
  const pinning = cell.depth === 1 ? options.pinning : null;
  if (pinning !== null) await pin(server.pid, pinning.server);
  await run('sync', ['-f', options.directory]);
  if (cell.discarded === true) await discard(server, options);
  const args = fioArguments(server, cell, options);
  const before = cpuSeconds(server.pid);
  const command =
    pinning === null ? ['fio', ...args] : ['taskset', '-c', pinning.client, 'fio', ...args];
  const [program = '', ...rest] = command;
  // fio leaves a state file in its working directory.
  const { stdout } = await run(program, rest, {
    cwd: options.directory,
    timeout: 300_000,
    maxBuffer: 2 ** 24,
  });
  const usedSeconds = cpuSeconds(server.pid) - before;
  if (pinning !== null) await pin(server.pid, pinning.all);
  return sampleOf(stdout, cell, { server, usedSeconds });
}

function sampleOf(
  stdout: string,
  cell: Cell,
  { server, usedSeconds }: { server: Server; usedSeconds: number },
): Sample {
  const job = output.parse(JSON.parse(stdout.slice(stdout.indexOf('{')))).jobs[0];
  if (job === undefined || job.error !== 0) throw new Error(`fio failed on ${server.name}`);
  const result = cell.rw.endsWith('read') ? job.read : job.write;
  const percentile = (key: string): number => (result.clat_ns.percentile?.[key] ?? 0) / 1000;
  return {
    iops: result.iops,
    bytesPerSecond: result.bw_bytes,
    p50Us: percentile('50.000000'),
    p99Us: percentile('99.000000'),
    cpuUsPerRequest: (usedSeconds * 1e6) / result.total_ios,
  };
}

/** Every byte of the volume is written once, so that nothing that is measured later is a hole. */
export async function fill(server: Server, cell: Cell, options: MeasureOptions): Promise<Sample> {
  const before = cpuSeconds(server.pid);
  const { stdout } = await run('fio', fioArguments(server, cell, options), {
    cwd: options.directory,
    timeout: 600_000,
    maxBuffer: 2 ** 24,
  });
  return sampleOf(stdout, cell, { server, usedSeconds: cpuSeconds(server.pid) - before });
}

/** So that every server writes into storage that it has to find first. */
async function discard(server: Server, options: MeasureOptions): Promise<void> {
  const cell = { name: 'discard', what: 'discard', rw: 'trim', block: '16m', depth: 4 } as const;
  const args = fioArguments(server, { ...cell, whole: true }, options);
  await run('fio', args, { cwd: options.directory, timeout: 60_000, maxBuffer: 2 ** 24 });
}

/** The first fill: each server's storage is still empty. */
export function fillCell(block: string): Cell {
  const depth = block.endsWith('m') ? 4 : 32;
  const what = `first fill, seq ${block} QD${depth}`;
  return { name: 'fill', what, rw: 'write', block, depth, whole: true };
}

function fioArguments(
  server: Server,
  cell: Cell,
  options: { seconds: number; sizeBytes: number },
): string[] {
  const ends = cell.whole
    ? []
    : ['--time_based', `--runtime=${options.seconds}`, '--norandommap', '--randrepeat=0'];
  return [
    ...[`--name=${cell.name}`, '--ioengine=nbd', `--uri=${server.uri}`, '--output-format=json'],
    ...[`--rw=${cell.rw}`, `--bs=${cell.block}`, `--iodepth=${cell.depth}`],
    ...[`--size=${options.sizeBytes}`, ...ends],
    ...(cell.flushEvery === undefined ? [] : [`--fsync=${cell.flushEvery}`]),
  ];
}

async function pin(pid: number, cpus: string): Promise<void> {
  await run('taskset', ['--all-tasks', '--cpu-list', '--pid', cpus, String(pid)]);
}
