/** After all steps have taken their namespaces away, nothing of what they used is left anywhere. */
import { expect } from '@jest/globals';
import type { V1VolumeAttachment } from '@kubernetes/client-node';
import { openCluster } from '../support/cluster.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';

step('no PersistentVolume, attachment or snapshot of the driver is left', async () => {
  const { kube, driver } = openCluster();
  await until(
    'the last PersistentVolumes are gone',
    async () => ((await driver.persistentVolumeHandles()).length === 0 ? true : undefined),
    { limitMs: 120_000 },
  );
  const attachments = await kube.list<V1VolumeAttachment>('storage.k8s.io/v1', 'VolumeAttachment');
  expect(attachments.filter(({ spec }) => spec.attacher === driver.name)).toEqual([]);
  expect(await kube.list('snapshot.storage.k8s.io/v1', 'VolumeSnapshotContent')).toEqual([]);
});

step('no engine holds a volume, and no node a device or a mount', async () => {
  const { nodes, driver } = openCluster();
  for (const node of nodes) {
    expect(await driver.engineVolumes(node.name)).toEqual([]);
    const mounts = await node.run(['sh', '-c', 'cat /proc/mounts']);
    const ours = mounts.split('\n').filter((line) => line.includes('kubernetes.io~csi'));
    expect(ours).toEqual([]);
    const devices = await node.run([
      'sh',
      '-c',
      'cat /sys/block/nbd*/backend /sys/block/loop*/loop/backing_file 2>/dev/null || true',
    ]);
    expect(devices.split('\n').filter((line) => line.includes(driver.name))).toEqual([]);
  }
});
