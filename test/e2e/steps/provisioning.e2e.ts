/** From a claim to a pod that has its data, on each node. */
import { describe, expect } from '@jest/globals';
import type { V1PersistentVolume, V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';
import { delay } from '../support/waiting.ts';
import { storageClasses } from '../support/workloads.ts';

const scratch = useScratch('provisioning');
const { nodes, release } = readState();

describe.each(nodes.map(({ name }) => name))('on node %s', (node) => {
  step('a claim waits for its first consumer, and its volume is on the node of that', async () => {
    const claim = `waits-${node}`;
    await scratch.claim(claim);
    await delay(3000);
    const { kube } = scratch.cluster;
    const reference = scratch.reference('PersistentVolumeClaim', claim);
    const waiting = await kube.get<V1PersistentVolumeClaim>(reference);
    expect(waiting.status?.phase).toBe('Pending');

    await scratch.podReady(`consumer-${node}`, { node, mounts: { '/data': claim } });
    const name = await scratch.volumeOf(claim);
    const volume = await kube.get<V1PersistentVolume>({
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      name,
    });
    expect(volume.spec?.csi).toMatchObject({ driver: release.driverName, fsType: 'ext4' });
    expect(volume.spec?.nodeAffinity?.required?.nodeSelectorTerms).toEqual([
      {
        matchExpressions: [
          { key: scratch.cluster.driver.topologyKey, operator: 'In', values: [node] },
        ],
      },
    ]);
    await scratch.removePod(`consumer-${node}`);
  });

  step('what a pod writes another one reads, after the first is gone', async () => {
    const claim = `data-${node}`;
    await scratch.claim(claim);
    await scratch.podReady(`author-${node}`, { node, mounts: { '/data': claim } });
    const sum = await scratch.shell(
      `author-${node}`,
      'dd if=/dev/urandom of=/data/file bs=1M count=8 2>/dev/null; sha256sum </data/file',
    );
    await scratch.removePod(`author-${node}`);
    const read = await scratch.podEnds(`reader-${node}`, {
      script: 'sha256sum </data/file',
      mounts: { '/data': claim },
    });
    expect(read.trim()).toBe(sum);
  });
});

step('an immediate claim is bound without a pod, and a pod follows it to its node', async () => {
  await scratch.claim('immediate', { storageClass: storageClasses.immediate });
  await scratch.untilBound('immediate');
  await scratch.podReady('follower', { mounts: { '/data': 'immediate' } });
  expect(await scratch.shell('follower', 'echo here >/data/x; cat /data/x')).toBe('here');
});

step('a claim for xfs gets xfs', async () => {
  const node = nodes[0]?.name ?? '';
  await scratch.claim('xfs', { storageClass: storageClasses.xfs, size: '400Mi' });
  await scratch.podReady('on-xfs', { node, mounts: { '/data': 'xfs' } });
  expect(await scratch.shell('on-xfs', "grep ' /data ' /proc/mounts")).toContain(' xfs ');
});
