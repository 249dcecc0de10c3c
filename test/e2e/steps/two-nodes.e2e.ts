/** Volumes are where their data is: what has a source goes to the source's node. */
import { expect } from '@jest/globals';
import type { V1Pod } from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { stepNeeds } from '../support/step.ts';

const scratch = useScratch('two-nodes');

stepNeeds(
  ['two-nodes'],
  'a clone for a pod that is bound to the wrong node names the right one',
  async () => {
    const [here, there] = nodes();
    await scratch.claim('source');
    await scratch.podReady('author', { node: here, mounts: { '/data': 'source' } });
    await scratch.shell('author', 'echo from-here >/data/x; sync');
    await scratch.claim('misplaced', { source: { kind: 'PersistentVolumeClaim', name: 'source' } });
    await scratch.pod('pinned', { node: there, mounts: { '/data': 'misplaced' } });
    const event = await scratch.untilEvent(
      scratch.reference('PersistentVolumeClaim', 'misplaced'),
      /ProvisioningFailed.*ResourceExhausted/i,
    );
    expect(event).toContain(here);
    const pinned = await scratch.cluster.kube.get<V1Pod>(scratch.reference('Pod', 'pinned'));
    expect(pinned.status?.phase).toBe('Pending');
    await scratch.removePod('pinned');
  },
);

stepNeeds(
  ['two-nodes'],
  'a clone for a pod that may run anywhere gets to the node of its source',
  async () => {
    const [here] = nodes();
    const claims = ['free-1', 'free-2', 'free-3'];
    for (const claim of claims) {
      await scratch.claim(claim, { source: { kind: 'PersistentVolumeClaim', name: 'source' } });
      await scratch.pod(claim, { mounts: { '/data': claim } });
    }
    for (const claim of claims) {
      const { spec } = await scratch.untilPodReady(claim, 240_000);
      expect(spec?.nodeName).toBe(here);
      expect(await scratch.shell(claim, 'cat /data/x')).toBe('from-here');
    }
  },
);

stepNeeds(['two-nodes'], 'a snapshot of a volume on the other node is restored there', async () => {
  const [, there] = nodes();
  await scratch.claim('far-source');
  await scratch.podReady('far-author', { node: there, mounts: { '/data': 'far-source' } });
  await scratch.shell('far-author', 'echo from-there >/data/x; sync');
  await scratch.snapshotReady('far', 'far-source');
  await scratch.claim('far-restored', { source: { kind: 'VolumeSnapshot', name: 'far' } });
  const { spec } = await scratch.podReady(
    'far-reader',
    { mounts: { '/data': 'far-restored' } },
    240_000,
  );
  expect(spec?.nodeName).toBe(there);
  expect(await scratch.shell('far-reader', 'cat /data/x')).toBe('from-there');
});

function nodes(): [string, string] {
  const [here, there] = scratch.cluster.nodes.map(({ name }) => name);
  if (here === undefined || there === undefined) throw new Error('there is one node only');
  return [here, there];
}
