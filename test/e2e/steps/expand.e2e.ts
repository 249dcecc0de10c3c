/**
 * Volumes grow while pods use them. ext4 grows where the kernel lets the node role grow it: growing a mounted ext4
 * takes CAP_SYS_RESOURCE, which the root of some virtual machines has not. xfs takes nothing.
 */
import { describe, expect } from '@jest/globals';
import type { V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';
import { storageClasses } from '../support/workloads.ts';

const scratch = useScratch('expand');
const { nodes, provider } = readState();

describe.each(nodes)('on node $name', ({ name: node, ownKernel }) => {
  const ext4 = ownKernel || provider === 'kind';
  const fs = ext4 ? 'ext4' : 'xfs';
  const from = ext4 ? '64Mi' : '400Mi';
  const to = ext4 ? '256Mi' : '1Gi';
  const mib = ext4 ? 200 : 900;

  step(`a mounted volume with ${fs} grows under a pod, from ${from} to ${to}`, async () => {
    const claim = `grows-${node}`;
    await scratch.claim(claim, { storageClass: storageClasses[fs], size: from });
    await scratch.podReady(`user-${node}`, { node, mounts: { '/data': claim } });
    await scratch.shell(`user-${node}`, 'echo kept >/data/kept; sync');
    await grow(claim, `user-${node}`, to);
    const size = await until('the filesystem has grown', async () => {
      const found = await scratch.shell(`user-${node}`, "df -m /data | awk 'NR==2 {print $2}'");
      return Number(found) > mib ? Number(found) : undefined;
    });
    expect(size).toBeGreaterThan(mib);
    expect(await scratch.shell(`user-${node}`, 'cat /data/kept')).toBe('kept');
  });

  step('a raw block volume grows under a pod', async () => {
    const claim = `block-${node}`;
    await scratch.claim(claim, { mode: 'Block', size: '64Mi' });
    await scratch.podReady(`block-user-${node}`, { node, devices: { '/dev/volume': claim } });
    const bytes = async (): Promise<number> =>
      Number(await scratch.shell(`block-user-${node}`, 'blockdev --getsize64 /dev/volume'));
    expect(await bytes()).toBe(64 * 1024 * 1024);
    await grow(claim, `block-user-${node}`, '128Mi');
    await until('the device has grown', async () =>
      (await bytes()) === 128 * 1024 * 1024 ? true : undefined,
    );
  });
});

/** The kubelet looks at a pod's volumes again when the pod changes, else once in a minute or two. */
async function grow(claim: string, pod: string, storage: string): Promise<void> {
  const { kube } = scratch.cluster;
  const reference = scratch.reference('PersistentVolumeClaim', claim);
  await kube.patch(reference, { spec: { resources: { requests: { storage } } } });
  await until(
    `${claim} has ${storage}`,
    async () => {
      const { status } = await kube.get<V1PersistentVolumeClaim>(reference);
      if (status?.capacity?.['storage'] === storage) return true;
      const annotations = { 'e2e/looked': String(performance.now()) };
      await kube.patch(scratch.reference('Pod', pod), { metadata: { annotations } });
      return undefined;
    },
    { limitMs: 150_000, everyMs: 2000, lastSeen: () => kube.aboutObject(reference) },
  );
}
