/** Runs the benchmarks, prints what they found and keeps all of it in bench/results/latest.json. */
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { compareDataPaths, describeDataPaths } from './data-path.ts';
import { describeLifecycle, measureLifecycle } from './lifecycle.ts';
import { describeMachine, type Machine } from './machine.ts';
import { readSettings } from './settings.ts';

const parts = ['data', 'lifecycle'];
const results = join(import.meta.dirname, 'results');

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

const wanted = process.argv.slice(2);
const unknown = wanted.find((part) => !parts.includes(part));
if (unknown !== undefined) {
  say(`bench/run: '${unknown}' is not one of ${parts.join(', ')}`);
  process.exit(2);
}
const settings = readSettings(process.env);
const directory = await mkdtemp(join(settings.directory, 'volumedriver-bench-'));
try {
  const does = (part: string): boolean => wanted.length === 0 || wanted.includes(part);
  const machine = describeMachine(directory);
  const measuredAt = new Date().toISOString();
  const report: Record<string, unknown> = { measuredAt, machine, settings };
  process.stdout.write(`${headline(measuredAt, machine)}\n`);
  if (does('data')) {
    await mkdir(join(directory, 'data'));
    const data = await compareDataPaths(settings, join(directory, 'data'), say);
    await rm(join(directory, 'data'), { recursive: true, force: true });
    report['data'] = data;
    process.stdout.write(`${describeDataPaths(data)}\n`);
  }
  if (does('lifecycle')) {
    const lifecycle = await measureLifecycle(settings, directory, say);
    report['lifecycle'] = lifecycle;
    process.stdout.write(`${describeLifecycle(lifecycle)}\n`);
  }
  await save(report);
} finally {
  await rm(directory, { recursive: true, force: true });
}

function headline(measuredAt: string, machine: Machine): string {
  const { commit, changed, kernel, cpu, cpus, memoryBytes, filesystem, node, fio } = machine;
  const { rounds, seconds, sizeBytes, fillBlock, repetitions } = settings;
  return [
    `${measuredAt.slice(0, 16)}Z, commit ${commit.slice(0, 10)}${changed ? ' with changes' : ''}, load ${machine.loadBefore}.`,
    `${cpus} CPUs ${cpu}, ${Math.round(memoryBytes / 2 ** 30)} GiB, Linux ${kernel}, ${filesystem}, Node ${node}, ${fio}.`,
    `${rounds} rounds of ${seconds} s, volumes of ${sizeBytes / 2 ** 20} MiB filled by ${fillBlock} writes, ${repetitions} repetitions.\n`,
  ].join('\n');
}

/** A part that was not run now stays as it was, under the name of its own run. */
async function save(report: Record<string, unknown>): Promise<void> {
  await mkdir(results, { recursive: true });
  const path = join(results, 'latest.json');
  if (wanted.length > 0) report['before'] = await partsOf(path);
  await writeFile(`${path}.tmp`, `${JSON.stringify(report, null, 2)}\n`);
  await rename(`${path}.tmp`, path);
}

async function partsOf(path: string): Promise<unknown> {
  try {
    const { before: _, ...old } = JSON.parse(await readFile(path, 'utf8')) as Record<
      string,
      unknown
    >;
    return old;
  } catch {
    return null; // the first run
  }
}
