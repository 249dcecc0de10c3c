/** Volumes are where their data is: what has a source goes to the source's node. */
import { expect } from '@jest/globals';
import type { V1Pod } from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { stepNeeds } from '../support/step.ts';
import { storageClasses } from '../support/workloads.ts';

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
  'a pod whose volume cannot be made on its node is scheduled anew, to the right one',
  async () => {
    const [here, there] = nodes();
    const label = `e2e/${scratch.namespace}`;
    scratch.atEnd(async () => {
      await labelNode(here, label, null);
      await labelNode(there, label, null);
    });
    await labelNode(there, label, 'yes');
    await scratch.claim('moved', { source: { kind: 'PersistentVolumeClaim', name: 'source' } });
    await scratch.pod('moved', { nodeLabel: label, mounts: { '/data': 'moved' } });
    const claim = scratch.reference('PersistentVolumeClaim', 'moved');
    await scratch.untilEvent(claim, /ProvisioningFailed.*ResourceExhausted/i);
    await labelNode(there, label, null);
    await labelNode(here, label, 'yes');
    const { spec } = await scratch.untilPodReady('moved', 180_000);
    expect(spec?.nodeName).toBe(here);
    expect(await scratch.shell('moved', 'cat /data/x')).toBe('from-here');
  },
);

stepNeeds(
  ['two-nodes'],
  'an immediate claim gets to the node of its source by itself, and takes its pod there',
  async () => {
    const [, there] = nodes();
    await scratch.claim('far-source');
    await scratch.podReady('far-author', { node: there, mounts: { '/data': 'far-source' } });
    await scratch.shell('far-author', 'echo from-there >/data/x; sync');
    await scratch.snapshotReady('far', 'far-source');
    const sources = {
      'far-restored': { kind: 'VolumeSnapshot', name: 'far' },
      'far-clone': { kind: 'PersistentVolumeClaim', name: 'far-source' },
    } as const;
    for (const [name, source] of Object.entries(sources)) {
      await scratch.claim(name, { storageClass: storageClasses.immediate, source });
      const { spec } = await scratch.podReady(name, { mounts: { '/data': name } });
      expect(spec?.nodeName).toBe(there);
      expect(await scratch.shell(name, 'cat /data/x')).toBe('from-there');
    }
  },
);

async function labelNode(name: string, label: string, value: string | null): Promise<void> {
  const reference = { apiVersion: 'v1', kind: 'Node', name };
  await scratch.cluster.kube.patch(reference, { metadata: { labels: { [label]: value } } });
}

function nodes(): [string, string] {
  const [here, there] = scratch.cluster.nodes.map(({ name }) => name);
  if (here === undefined || there === undefined) throw new Error('there is one node only');
  return [here, there];
}
