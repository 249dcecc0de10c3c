/**
 * How long things take, as a table. Nothing is asserted beyond limits that only a hang would exceed: figures depend
 * on the machine.
 */
import { expect } from '@jest/globals';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';

const scratch = useScratch('figures');
const node = readState().nodes[0]?.name ?? '';
const rounds = 20;
const atOnce = 30;
const figures: string[][] = [];

step(
  `from a claim to a ready pod, ${rounds} times, one after the other`,
  async () => {
    const times: number[] = [];
    for (let round = 1; round <= rounds; round++) {
      times.push(await timed(() => claimAndPod(`one-${round}`)));
    }
    figures.push([`PVC applied to pod ready (${rounds} times)`, ...summary(times)]);
    expect(Math.max(...times)).toBeLessThan(90_000);
  },
  600_000,
);

step(
  `from a snapshot to readyToUse, ${rounds} times`,
  async () => {
    await scratch.shell(
      'one-1',
      'dd if=/dev/urandom of=/data/file bs=1M count=16 2>/dev/null; sync',
    );
    const times: number[] = [];
    for (let round = 1; round <= rounds; round++) {
      times.push(await timed(() => scratch.snapshotReady(`snapshot-${round}`, 'one-1')));
    }
    figures.push([`snapshot to readyToUse (${rounds} times)`, ...summary(times)]);
    expect(Math.max(...times)).toBeLessThan(60_000);
  },
  600_000,
);

step(
  `${atOnce} claims and pods at once, each with its own data`,
  async () => {
    await Promise.all(names('one', rounds).map((name) => removeBoth(name)));
    const all = names('many', atOnce);
    const up = await timed(() => Promise.all(all.map((name) => claimAndPod(name, 300_000))));
    figures.push([`${atOnce} PVCs and pods at once`, seconds(up), '', '']);
    await Promise.all(all.map((name) => scratch.shell(name, `echo ${name} >/data/name; sync`)));
    const read = await Promise.all(all.map((name) => scratch.shell(name, 'cat /data/name')));
    expect(read).toEqual(all);
  },
  600_000,
);

step(
  `teardown of those ${atOnce}`,
  async () => {
    const down = await timed(() =>
      Promise.all(names('many', atOnce).map((name) => removeBoth(name, 300_000))),
    );
    figures.push([`teardown of ${atOnce} pods, PVCs and PVs`, seconds(down), '', '']);
    printTable(['figure', 'median', 'least', 'most'], figures);
  },
  600_000,
);

async function claimAndPod(name: string, limitMs = 120_000): Promise<void> {
  await scratch.claim(name);
  await scratch.podReady(name, { node, mounts: { '/data': name } }, limitMs);
}

/** Until the PersistentVolume is gone, too. */
async function removeBoth(name: string, limitMs = 180_000): Promise<void> {
  const volume = await scratch.volumeOf(name);
  const { kube } = scratch.cluster;
  await kube.remove(scratch.reference('Pod', name));
  await scratch.removeClaim(name, limitMs);
  await kube.untilGone({ apiVersion: 'v1', kind: 'PersistentVolume', name: volume }, { limitMs });
}

function names(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, at) => `${prefix}-${at + 1}`);
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await action();
  return performance.now() - started;
}

function summary(times: readonly number[]): string[] {
  const sorted = times.toSorted((one, other) => one - other);
  const middle = sorted.length / 2;
  const median = ((sorted[Math.ceil(middle) - 1] ?? 0) + (sorted[Math.floor(middle)] ?? 0)) / 2;
  return [seconds(median), seconds(sorted[0] ?? 0), seconds(sorted.at(-1) ?? 0)];
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const lines = all.map((row) =>
    widths
      .map((width, column) =>
        column === 0 ? (row[column] ?? '').padEnd(width) : (row[column] ?? '').padStart(width),
      )
      .join('   '),
  );
  process.stdout.write(`\n${lines.map((line) => `   ${line.trimEnd()}`).join('\n')}\n\n`);
}
