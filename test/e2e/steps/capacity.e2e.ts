/** What the scheduler is told about nodes: room for volumes, and how many of them. */
import { expect } from '@jest/globals';
import type {
  KubernetesObject,
  V1CSINode,
  V1CSIStorageCapacity,
  V1PersistentVolumeClaim,
} from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';
import { storageClasses } from '../support/workloads.ts';

const scratch = useScratch('capacity');
const { nodes, release } = readState();

/** What binds at once does not ask the scheduler, so nothing is told about it. */
const delayed = Object.values(storageClasses).filter((name) => name !== storageClasses.immediate);

step('every node and class has a CSIStorageCapacity with room in it', async () => {
  const { kube, driver } = scratch.cluster;
  const found = await until(
    'there is a CSIStorageCapacity for each node and class',
    async () => {
      const all = await kube.list<V1CSIStorageCapacity>('storage.k8s.io/v1', 'CSIStorageCapacity', {
        namespace: release.namespace,
      });
      const ours = all.filter(
        ({ nodeTopology }) => nodeTopology?.matchLabels?.[driver.topologyKey] !== undefined,
      );
      const covered = new Set(
        ours.map(
          (each) =>
            `${each.nodeTopology?.matchLabels?.[driver.topologyKey]} ${each.storageClassName}`,
        ),
      );
      const complete = nodes.every(({ name }) =>
        delayed.every((storageClass) => covered.has(`${name} ${storageClass}`)),
      );
      return complete ? ours : undefined;
    },
    { limitMs: 150_000 },
  );
  for (const each of found) {
    const capacity = bytesOf(each.capacity);
    expect(capacity).toBeGreaterThan(2 ** 30);
    // Thinly provisioned: one volume may be larger than what is free.
    expect(bytesOf(each.maximumVolumeSize)).toBeGreaterThan(capacity);
  }
});

step('a claim larger than any node can promise stays pending, and an event says why', async () => {
  await scratch.claim('huge', { size: '63Ti' });
  await scratch.pod('huge-user', { mounts: { '/data': 'huge' } });
  const event = await scratch.untilEvent(
    scratch.reference('Pod', 'huge-user'),
    /FailedScheduling.*(not have enough free storage|storage)/,
  );
  expect(event).toMatch(/storage/);
  const claim = await scratch.cluster.kube.get<V1PersistentVolumeClaim>(
    scratch.reference('PersistentVolumeClaim', 'huge'),
  );
  expect(claim.status?.phase).toBe('Pending');
});

step('an immediate claim that is too large is refused, with an event', async () => {
  await scratch.claim('huge-now', { size: '100Ti', storageClass: storageClasses.immediate });
  await scratch.untilEvent(
    scratch.reference('PersistentVolumeClaim', 'huge-now'),
    /ProvisioningFailed/,
  );
});

step('every CSINode tells how many volumes its node takes', async () => {
  for (const { name } of nodes) {
    const csiNode = await scratch.cluster.kube.get<V1CSINode & KubernetesObject>({
      apiVersion: 'storage.k8s.io/v1',
      kind: 'CSINode',
      name,
    });
    const driver = csiNode.spec.drivers.find((each) => each.name === release.driverName);
    expect(driver).toMatchObject({ nodeID: name, allocatable: { count: 128 } });
    expect(driver?.topologyKeys).toEqual([scratch.cluster.driver.topologyKey]);
  }
});

/** Of a Kubernetes quantity of bytes. */
function bytesOf(quantity: string | undefined): number {
  const match = /^(\d+(?:\.\d+)?)([KMGTP]i)?$/.exec(quantity ?? '');
  if (match === null) throw new Error(`no size: ${String(quantity)}`);
  const power = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi'].indexOf(match[2] ?? '');
  return Number(match[1]) * 1024 ** power;
}
