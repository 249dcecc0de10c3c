/** Who may use a volume, and as whom: ReadWriteOncePod, refused access modes, fsGroup, mount options. */
import { expect } from '@jest/globals';
import type { V1Pod } from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { step } from '../support/step.ts';
import { storageClasses } from '../support/workloads.ts';

const scratch = useScratch('access');

step('a second pod on a ReadWriteOncePod claim waits until the first is gone', async () => {
  await scratch.claim('single', { access: 'ReadWriteOncePod' });
  await scratch.podReady('first', { mounts: { '/data': 'single' } });
  await scratch.pod('second', { mounts: { '/data': 'single' } });
  const second = scratch.reference('Pod', 'second');
  await scratch.untilEvent(second, /FailedScheduling.*ReadWriteOncePod/);
  const { status } = await scratch.cluster.kube.get<V1Pod>(second);
  expect(status?.phase).toBe('Pending');
  await scratch.removePod('first');
  await scratch.untilPodReady('second');
});

step('a claim that many nodes may write is refused, and its event says why', async () => {
  await scratch.claim('shared', { access: 'ReadWriteMany' });
  await scratch.pod('sharer', { mounts: { '/data': 'shared' } });
  const claim = scratch.reference('PersistentVolumeClaim', 'shared');
  await scratch.untilEvent(claim, /ProvisioningFailed.*(access mode|MULTI_NODE)/i);
});

step('files belong to the fsGroup, and directories hand it on', async () => {
  await scratch.claim('grouped');
  await scratch.podReady('member', {
    mounts: { '/data': 'grouped' },
    fsGroup: 4321,
    runAs: 1234,
  });
  const made = await scratch.shell(
    'member',
    'echo mine >/data/file; mkdir /data/below; echo too >/data/below/file; stat -c "%u %g %a" /data /data/file /data/below/file',
  );
  const [root, file, below] = made.split('\n').map((line) => line.split(' '));
  expect(root?.[1]).toBe('4321');
  // setgid and group-writable.
  expect(Number.parseInt(root?.[2] ?? '0', 8) & 0o2070).toBe(0o2070);
  expect(file?.slice(0, 2)).toEqual(['1234', '4321']);
  expect(below?.slice(0, 2)).toEqual(['1234', '4321']);
});

step('mount options of the class reach the mount', async () => {
  await scratch.claim('options', { storageClass: storageClasses.mountOptions });
  await scratch.podReady('mounted', { mounts: { '/data': 'options' } });
  const mount = await scratch.shell('mounted', "grep ' /data ' /proc/mounts");
  expect(mount.split(' ')[3]?.split(',')).toEqual(expect.arrayContaining(['noatime', 'sync']));
});
