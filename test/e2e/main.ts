/**
 * `make e2e` and `make e2e-smoke`: a real Kubernetes, the product on it as a user installs it, and the steps.
 *
 *   main.ts full|smoke [--keep] [--only REGEXP] [--provider bare|kind] [--cached]
 *   main.ts steps --state FILE [--only REGEXP]     against a cluster that a run with --keep holds
 *
 * --keep holds the cluster after the steps until Ctrl-C; --only runs the steps whose file's name fits (none fits: only
 * the cluster); --cached skips, loudly, when anything would have to be built from sources first. The cluster is taken
 * down however this ends. The last line is "N passed, N failed, N skipped"; the exit code is 0 when nothing failed.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { describeError } from '../../src/base/logger.ts';
import { bareProvider } from './bare/provider.ts';
import { kindProvider } from './kind/provider.ts';
import { fullPlan, restrict, smokePlan, type StepGroup } from './plan.ts';
import type { Preparations, Provider, ProviderKind } from './provider.ts';
import { endCommands } from './support/commands.ts';
import { serveControl } from './support/control-server.ts';
import { collectReport } from './support/failure-report.ts';
import {
  chartValues,
  findChart,
  installChart,
  installSnapshotApi,
  mergeValues,
  untilDriverReady,
  untilRoomIsKnown,
  untilSnapshotControllerReady,
} from './support/install.ts';
import { prepareFromSources, Skipped } from './support/prepare.ts';
import { Kube } from './support/kube.ts';
import { runGroups, type Counts } from './support/run-steps.ts';
import { snapshotControllerNamespace } from './support/snapshot-controller.ts';
import type { ClusterState, Release } from './support/state.ts';
import { untilNodeReady } from './support/cluster.ts';
import { within } from './support/waiting.ts';

const root = resolve(import.meta.dirname, '../..');
const kinds: readonly ProviderKind[] = [kindProvider, bareProvider];
const release: Release = {
  name: 'volumedriver-csi',
  namespace: 'volumedriver',
  driverName: 'csi.volumedriver.io',
};

interface Wishes {
  readonly which: 'smoke' | 'full';
  readonly keep: boolean;
  readonly only: RegExp | undefined;
  readonly provider: string | undefined;
  readonly cachedOnly: boolean;
}

/** What has to be ended, filled as it is started. */
interface Running {
  readonly folder: string;
  readonly interrupt: AbortController;
  /** Pending while the cluster is brought up. */
  starting?: Promise<Provider>;
  provider?: Provider;
  control?: Server;
  /** Of the steps, while the cluster is held. */
  counts?: Counts;
}

class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      keep: { type: 'boolean', default: false },
      cached: { type: 'boolean', default: false },
      only: { type: 'string' },
      provider: { type: 'string' },
      state: { type: 'string' },
    },
  });
  const [which] = positionals;
  const only = values.only === undefined ? undefined : new RegExp(values.only);
  if (which === 'steps' && values.state !== undefined) {
    const plan = restrict([...smokePlan, ...fullPlan], only);
    return finish(await runGroups(plan, { root, stateFile: values.state, print }));
  }
  if (which !== 'smoke' && which !== 'full') {
    print('usage: main.ts full|smoke [--keep] [--only REGEXP] [--provider bare|kind] [--cached]');
    return 2;
  }
  const { keep, cached: cachedOnly, provider } = values;
  return await runAll({ which, keep, only, provider, cachedOnly });
}

async function runAll(wishes: Wishes): Promise<number> {
  const started = performance.now();
  const plan = restrict(wishes.which === 'smoke' ? smokePlan : fullPlan, wishes.only);
  const running: Running = {
    folder: mkdtempSync(join(tmpdir(), 'vdcsi-e2e-')),
    interrupt: new AbortController(),
  };
  let counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  let code: number | undefined;
  const broken = signals(running.interrupt);
  try {
    counts = await Promise.race([runOnCluster(wishes, plan, running), broken]);
  } catch (error) {
    if (error instanceof Interrupted && running.counts !== undefined) {
      ({ counts } = running);
    } else if (error instanceof Skipped) {
      printSkip(error.message);
      counts.skipped += plan.length;
    } else {
      print(`\nFAIL ${describeError(error)}`);
      counts.failed += 1;
      if (error instanceof Interrupted) code = 130;
      else await report(running);
    }
  } finally {
    endCommands();
    await takeDown(running);
  }
  print(`\nall of it took ${seconds(started)}`);
  const own = finish(counts);
  return code ?? own;
}

async function runOnCluster(
  wishes: Wishes,
  plan: readonly StepGroup[],
  running: Running,
): Promise<Counts> {
  const kind = await chooseProvider(wishes.provider);
  const logger = (line: string): void => print(`   ${line}`);
  const { which, cachedOnly, keep } = wishes;
  const prepared = await phase('tools and images', 2700, async () => {
    const options = { which, logger, cachedOnly };
    return await (kind.prepare?.(options) ?? prepareFromSources(options));
  });
  const { signal } = running.interrupt;
  const provider = await phase(`cluster (${kind.name})`, 90, async () => {
    const { archives, toolsDirectory } = prepared;
    const nodes = which === 'smoke' ? 'one' : 'all';
    running.starting = kind.up({ toolsDirectory, images: archives, nodes, logger, signal });
    running.provider = await running.starting;
    return running.provider;
  });
  if (signal.aborted) throw new Interrupted('interrupted');
  const stateFile = await phase('installation', 120, () => install(running, provider, prepared));
  const counts = await phase('steps', 900, () =>
    runGroups(plan, { root, stateFile, print, signal }),
  );
  if (counts.failed > 0) await report(running);
  running.counts = counts;
  if (keep) await hold(stateFile, provider);
  return counts;
}

async function chooseProvider(wanted: string | undefined): Promise<ProviderKind> {
  const reasons: string[] = [];
  for (const kind of kinds) {
    if (wanted !== undefined && kind.name !== wanted) continue;
    const obstacle = await kind.obstacle();
    if (obstacle === undefined) return kind;
    reasons.push(`${kind.name}: ${obstacle}`);
  }
  throw new Skipped(`no Kubernetes can be run on this machine (${reasons.join('; ')})`);
}

/** Resolves with the path of the state for the steps. */
async function install(
  running: Running,
  provider: Provider,
  { references, crds }: Preparations,
): Promise<string> {
  const kube = new Kube(provider.kubeconfig);
  const cluster = { kube };
  for (const { name } of provider.nodes) await untilNodeReady(cluster, name);
  await installSnapshotApi(kube, crds, references.snapshotController);
  const chart = findChart(root);
  const nodeCount = provider.nodes.length;
  const values = mergeValues(chartValues(references, release, nodeCount), provider.chartValues);
  const { kubeconfig, toolsDirectory } = provider;
  await installChart(
    { kubeconfig, toolsDirectory, folder: running.folder, chart },
    release,
    values,
  );
  await untilDriverReady(kube, release, values, nodeCount);
  await untilSnapshotControllerReady(kube);
  await untilRoomIsKnown(
    kube,
    release,
    provider.nodes.map(({ name }) => name),
  );
  const controlSocket = join(running.folder, 'control.sock');
  running.control = await serveControl(provider, controlSocket);
  const state: ClusterState = {
    provider: provider.name,
    kubeconfig,
    toolsDirectory,
    controlSocket,
    chart,
    values,
    release,
    features: [...provider.features],
    nodes: provider.nodes.map(({ name, kernelNbd, ownKernel }) => ({ name, kernelNbd, ownKernel })),
    images: { busybox: references.busybox, postgres: references.postgres },
  };
  const stateFile = join(running.folder, 'state.json');
  writeFileSync(stateFile, JSON.stringify(state, null, 2));
  return stateFile;
}

async function hold(stateFile: string, provider: Provider): Promise<void> {
  print('\nThe cluster is kept until this is interrupted (Ctrl-C). Meanwhile:');
  print(`  export KUBECONFIG=${provider.kubeconfig} PATH=${provider.toolsDirectory}:$PATH`);
  print(`  scripts/e2e steps --state ${stateFile} --only NAME`);
  await new Promise<never>(() => setInterval(() => undefined, 60_000));
}

/** Collects what a failure left, and says where it is. */
async function report({ provider, interrupt }: Running): Promise<void> {
  if (provider === undefined || interrupt.signal.aborted) return;
  const folder = join(tmpdir(), `vdcsi-e2e-failure-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  await provider.collectLogs?.().catch((error: unknown) => print(describeError(error)));
  const telling = await collectReport(new Kube(provider.kubeconfig), {
    folder,
    namespaces: [release.namespace, snapshotControllerNamespace],
    logDirectory: provider.logDirectory,
  });
  print(`\nWhat the cluster held and said is in ${folder}. The most telling of it:`);
  for (const line of telling.slice(0, 60)) print(`  ${line}`);
}

/** A second signal while this runs changes nothing. */
async function takeDown(running: Running): Promise<void> {
  const started = performance.now();
  running.control?.close();
  running.control?.closeAllConnections();
  const { starting } = running;
  if (starting !== undefined) {
    try {
      const provider = await within('the start of the cluster', 180_000, starting).catch(
        noProvider,
      );
      await provider?.down();
      print(`\n== down: ${seconds(started)}`);
    } catch (error) {
      print(`\nFAIL taking the cluster down: ${describeError(error)}`);
    }
  }
  rmSync(running.folder, { recursive: true, force: true });
}

/** A provider that failed to start has cleaned up. */
function noProvider(): undefined {
  return undefined;
}

async function phase<T>(name: string, budgetSeconds: number, action: () => Promise<T>): Promise<T> {
  const started = performance.now();
  print(`\n== ${name}`);
  try {
    return await action();
  } finally {
    print(`== ${name}: ${seconds(started)} (budget ${budgetSeconds} s)`);
  }
}

/** Rejects at the first signal, after which whatever runs is told to end. */
function signals(interrupt: AbortController): Promise<never> {
  return new Promise((_resolve, reject) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        interrupt.abort();
        reject(new Interrupted(`interrupted by ${signal}`));
      });
    }
  });
}

function printSkip(reason: string): void {
  const line = '#'.repeat(100);
  print(`\n${line}\nSKIPPED: ${reason}\n${line}`);
}

function finish({ passed, failed, skipped }: Counts): number {
  print(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed > 0 ? 1 : 0;
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.exit(await main());
