/** Controllers die in the middle of provisioning: what the API knows is what the engines hold, no more and no less. */
import { expect } from '@jest/globals';
import { nodeWhich, type Cluster } from '../support/cluster.ts';
import { components, type NamedPod } from '../support/driver.ts';
import { useScratch } from '../support/scratch.ts';
import { step } from '../support/step.ts';
import { delay, until } from '../support/waiting.ts';
import { storageClasses } from '../support/workloads.ts';

const scratch = useScratch('controller');
const count = 12;

step(
  'all controllers and a provisioner are killed while volumes are made: each claim gets one volume',
  async () => {
    const { cluster } = scratch;
    const kills: Promise<void>[] = [];
    for (let number = 1; number <= count; number++) {
      await scratch.claim(`claim-${number}`, { storageClass: storageClasses.immediate });
      if (number === count / 3) kills.push(killAll(cluster, 'controller'));
      if (number === (2 * count) / 3) kills.push(killAll(cluster, 'csi-provisioner'));
      await delay(150);
    }
    await Promise.all(kills);
    for (let number = 1; number <= count; number++)
      await scratch.untilBound(`claim-${number}`, 180_000);
    await sameVolumes(cluster);
  },
);

step(
  'controllers are killed while volumes are deleted: nothing stays behind in the engines',
  async () => {
    const { cluster } = scratch;
    const removed = Array.from({ length: count / 2 }, (_, at) => `claim-${at + 1}`);
    for (const [at, name] of removed.entries()) {
      await cluster.kube.remove(scratch.reference('PersistentVolumeClaim', name));
      if (at === 2) await killAll(cluster, 'controller');
    }
    const volumes = await until(
      'the volumes of the deleted claims are gone',
      async () => {
        const handles = await cluster.driver.persistentVolumeHandles();
        return handles.length <= count - removed.length ? handles : undefined;
      },
      { limitMs: 180_000 },
    );
    expect(volumes).toHaveLength(count - removed.length);
    await sameVolumes(cluster);
  },
);

/** Engines and API, at the end of what both are still doing. */
async function sameVolumes(cluster: Cluster): Promise<void> {
  const nodes = cluster.nodes.map(({ name }) => name);
  let engines: string[] = [];
  let handles: string[] = [];
  await until(
    'the engines hold what the API knows',
    async () => {
      handles = await cluster.driver.persistentVolumeHandles();
      engines = await cluster.driver.allEngineVolumeIds(nodes);
      return JSON.stringify(engines) === JSON.stringify(handles) ? true : undefined;
    },
    { limitMs: 120_000, lastSeen: async () => JSON.stringify({ engines, handles }) },
  );
  expect(engines).toEqual(handles);
}

/** Without waiting for them to come back. One that is down already is left alone, but one at least is killed. */
async function killAll(cluster: Cluster, container: string): Promise<void> {
  const pods = await cluster.driver.pods(components.controller);
  await Promise.any(pods.map((pod) => killOne(cluster, container, pod)));
}

async function killOne(cluster: Cluster, container: string, pod: NamedPod): Promise<void> {
  const node = nodeWhich(cluster, pod.node, ({ name }) => name === pod.node);
  await cluster.driver.signalContainer(pod, container, node);
}
