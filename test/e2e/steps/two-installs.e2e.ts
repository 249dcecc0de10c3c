/** Two installations beside each other: each has its own volumes, and one goes without the other noticing. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect } from '@jest/globals';
import type { V1CSINode } from '@kubernetes/client-node';
import { Driver } from '../support/driver.ts';
import {
  helm,
  installChart,
  mergeValues,
  untilDriverReady,
  type HelmContext,
} from '../support/install.ts';
import { useScratch } from '../support/scratch.ts';
import { readState, type Release } from '../support/state.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';
import { Writer } from '../support/writer.ts';

const scratch = useScratch('two-installs');
const state = readState();
const node = state.nodes[0]?.name ?? '';
const second: Release = {
  name: 'second',
  namespace: 'second-volumedriver',
  driverName: 'second.volumedriver.example',
};
const context: HelmContext = {
  kubeconfig: state.kubeconfig,
  toolsDirectory: state.toolsDirectory,
  folder: mkdtempSync(join(tmpdir(), 'vdcsi-e2e-second-')),
  chart: state.chart,
};
const attachLimit = 2;

afterAll(async () => {
  await uninstall();
  rmSync(context.folder, { recursive: true, force: true });
}, 240_000);

step("the chart's own test passes", async () => {
  const printed = await helm(
    context,
    'test',
    state.release.name,
    '--namespace',
    state.release.namespace,
  );
  expect(printed).toMatch(/Phase:\s+Succeeded/);
});

step('a second installation gives volumes, and one pod uses those of both', async () => {
  const values = mergeValues(state.values, {
    driverName: second.driverName,
    controller: { replicas: 1 },
    node: { attachLimit },
    dataPlane: {
      ports: { remoteApi: 9819, volumedriverMetrics: 9820, attacherMetrics: 9821 },
    },
    storageClasses: [{ name: 'second' }],
    volumeSnapshotClasses: [],
  });
  await installChart(context, second, values);
  const { kube } = scratch.cluster;
  await untilDriverReady(kube, second, values, state.nodes.length);
  await scratch.claim('of-first');
  await scratch.claim('of-second', { storageClass: 'second' });
  await scratch.podReady('both', {
    node,
    mounts: { '/first': 'of-first', '/second': 'of-second' },
  });
  const written = 'echo 1 >/first/x; echo 2 >/second/x; sync; cat /first/x /second/x';
  expect(await scratch.shell('both', written)).toBe('1\n2');

  const handle = await scratch.handleOf('of-second');
  const ids = (volumes: readonly { id: string }[]): string[] => volumes.map(({ id }) => id);
  expect(ids(await new Driver(kube, second).engineVolumes(node))).toEqual([handle]);
  expect(ids(await scratch.cluster.driver.engineVolumes(node))).not.toContain(handle);
});

step(`a node takes no more volumes than its attach limit (${attachLimit})`, async () => {
  for (const claim of ['second-2', 'second-3']) {
    await scratch.claim(claim, { storageClass: 'second' });
    await scratch.pod(claim, { node, mounts: { '/data': claim } });
    if (claim === 'second-2') await scratch.untilPodReady(claim);
  }
  await scratch.untilEvent(
    scratch.reference('Pod', 'second-3'),
    /FailedScheduling.*max volume count/,
  );
  await scratch.removePod('second-2');
  await scratch.untilPodReady('second-3', 180_000);
});

step('the second one is uninstalled: writers on volumes of the first do not notice', async () => {
  const { kube } = scratch.cluster;
  await scratch.removePod('both');
  const writer = await Writer.start(scratch, 'writer', { claim: 'of-first', node });
  for (const name of ['second-2', 'second-3']) {
    await kube.remove(scratch.reference('Pod', name));
    await scratch.removeClaim(name);
  }
  await scratch.removeClaim('of-second');
  await until('the volumes of the second are gone', async () => {
    const left = await new Driver(kube, second).persistentVolumeHandles();
    return left.length === 0 ? true : undefined;
  });
  await uninstall();
  await until('the kubelet has forgotten it', async () => {
    const reference = { apiVersion: 'storage.k8s.io/v1', kind: 'CSINode', name: node };
    const { spec } = await kube.get<V1CSINode>(reference);
    return spec.drivers.some(({ name }) => name === second.driverName) ? undefined : true;
  });
  await writer.untilWrites(10);
  await writer.check();
});

let installed = true;

async function uninstall(): Promise<void> {
  if (!installed) return;
  installed = false;
  const where = ['--namespace', second.namespace, '--ignore-not-found', '--wait'];
  await helm(context, 'uninstall', second.name, ...where);
  const { kube } = scratch.cluster;
  const reference = { apiVersion: 'v1', kind: 'Namespace', name: second.namespace };
  await kube.removeAndWait(reference, { limitMs: 120_000 });
}
