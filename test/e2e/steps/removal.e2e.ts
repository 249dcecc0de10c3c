/** Deleted in awkward orders: everything goes in the end, and nothing that is needed goes before. */
import { expect } from '@jest/globals';
import type { V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { Scratch, useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';

const scratch = useScratch('removal');
const node = readState().nodes[0]?.name ?? '';

step('a claim that is deleted before its pod stays until the pod is gone', async () => {
  await scratch.claim('early');
  await scratch.podReady('user', { node, mounts: { '/data': 'early' } });
  const volume = await scratch.volumeOf('early');
  const { kube } = scratch.cluster;
  await kube.remove(scratch.reference('PersistentVolumeClaim', 'early'));
  await scratch.shell('user', 'echo still >/data/x; sync; cat /data/x');
  const claim = await kube.get<V1PersistentVolumeClaim>(
    scratch.reference('PersistentVolumeClaim', 'early'),
  );
  expect(claim.metadata?.deletionTimestamp).toBeDefined();
  await scratch.removePod('user');
  await kube.untilGone(scratch.reference('PersistentVolumeClaim', 'early'));
  await untilVolumeIsGone(scratch, volume);
});

step('a volume may be deleted before its snapshot, which can be restored afterwards', async () => {
  await scratch.claim('first');
  await scratch.podReady('first-user', { node, mounts: { '/data': 'first' } });
  await scratch.shell('first-user', 'echo outlives >/data/x; sync');
  await scratch.snapshotReady('outlives', 'first');
  const volume = await scratch.volumeOf('first');
  await scratch.removePod('first-user');
  await scratch.removeClaim('first');
  await untilVolumeIsGone(scratch, volume);

  await scratch.claim('again', { source: { kind: 'VolumeSnapshot', name: 'outlives' } });
  const read = await scratch.podEnds('again-user', {
    node,
    script: 'cat /data/x',
    mounts: { '/data': 'again' },
  });
  expect(read.trim()).toBe('outlives');
});

step('a snapshot may be deleted before what was restored from it', async () => {
  const { kube } = scratch.cluster;
  await kube.removeAndWait(scratch.reference('VolumeSnapshot', 'outlives'));
  const read = await scratch.podEnds('after-user', {
    node,
    script: 'cat /data/x',
    mounts: { '/data': 'again' },
  });
  expect(read.trim()).toBe('outlives');
});

step("a clone's source may be deleted while the clone is used", async () => {
  await scratch.claim('origin');
  await scratch.podReady('origin-user', { node, mounts: { '/data': 'origin' } });
  await scratch.shell('origin-user', 'echo inherited >/data/x; sync');
  await scratch.claim('copy', { source: { kind: 'PersistentVolumeClaim', name: 'origin' } });
  await scratch.podReady('copy-user', { node, mounts: { '/data': 'copy' } });
  const volume = await scratch.volumeOf('origin');
  await scratch.removePod('origin-user');
  await scratch.removeClaim('origin');
  await untilVolumeIsGone(scratch, volume);
  expect(await scratch.shell('copy-user', 'cat /data/x')).toBe('inherited');
});

step('a namespace is deleted with all that is in it', async () => {
  const all = new Scratch('removal-all');
  await all.open();
  await all.claim('one');
  await all.podReady('one-user', { node, mounts: { '/data': 'one' } });
  await all.snapshotReady('of-one', 'one');
  await all.claim('two', { source: { kind: 'VolumeSnapshot', name: 'of-one' } });
  await all.podReady('two-user', { node, mounts: { '/data': 'two' } });
  await all.claim('three', { source: { kind: 'PersistentVolumeClaim', name: 'two' } });
  await all.podReady('three-user', { node, mounts: { '/data': 'three' } });
  const volumes = await Promise.all(['one', 'two', 'three'].map((name) => all.volumeOf(name)));
  await all.close();
  for (const volume of volumes) await untilVolumeIsGone(all, volume);
});

/** From the API, and from the engine. */
async function untilVolumeIsGone(within: Scratch, volume: string): Promise<void> {
  const { kube, driver } = within.cluster;
  await kube.untilGone({ apiVersion: 'v1', kind: 'PersistentVolume', name: volume });
  await until(`${volume} is gone from the engine`, async () => {
    const left = await driver.engineVolumes(node);
    return left.some(({ name }) => name === volume) ? undefined : true;
  });
}
