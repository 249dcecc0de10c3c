/** Volumes that no claim of a user made: static PersistentVolumes and generic ephemeral ones. */
import { expect } from '@jest/globals';
import type { V1PersistentVolume, V1PersistentVolumeClaim } from '@kubernetes/client-node';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';
import { until } from '../support/waiting.ts';

const scratch = useScratch('other-volumes');
const node = readState().nodes[0]?.name ?? '';

step(
  'a volume made with vdctl can be used by a static PersistentVolume, and outlives it',
  async () => {
    const { kube, driver } = scratch.cluster;
    const name = `${scratch.namespace}-static`;
    const made = (await driver.vdctl(node, 'volume', 'create', name, '64MiB')) as { id: string };
    scratch.atEnd(async () => {
      await driver.vdctl(node, 'volume', 'rm', name);
    });
    const reference = { apiVersion: 'v1', kind: 'PersistentVolume', name };
    await kube.create<V1PersistentVolume>({
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name },
      spec: {
        capacity: { storage: '64Mi' },
        accessModes: ['ReadWriteOnce'],
        persistentVolumeReclaimPolicy: 'Retain',
        storageClassName: '',
        csi: { driver: driver.name, volumeHandle: made.id, fsType: 'ext4' },
        nodeAffinity: {
          required: {
            nodeSelectorTerms: [
              {
                matchExpressions: [{ key: driver.topologyKey, operator: 'In', values: [node] }],
              },
            ],
          },
        },
      },
    });
    await scratch.claim('static', { storageClass: '', volumeName: name });
    await scratch.podReady('static-user', { mounts: { '/data': 'static' } });
    await scratch.shell('static-user', 'echo static >/data/x; sync');
    await scratch.removePod('static-user');
    await scratch.removeClaim('static');
    await kube.removeAndWait(reference);
    const left = await driver.engineVolumes(node);
    expect(left.map(({ id }) => id)).toContain(made.id);
  },
);

step('a generic ephemeral volume comes and goes with its pod', async () => {
  await scratch.podReady('brief', { ephemeral: { '/scratch': {} } });
  await scratch.shell('brief', 'echo short >/scratch/x; sync');
  const claims = await scratch.cluster.kube.list<V1PersistentVolumeClaim>(
    'v1',
    'PersistentVolumeClaim',
    { namespace: scratch.namespace },
  );
  const own = claims.find(({ metadata }) => metadata?.name?.startsWith('brief-') === true);
  const volume = own?.spec?.volumeName ?? '';
  expect(volume).toMatch(/^pvc-/);
  await scratch.removePod('brief');
  await scratch.cluster.kube.untilGone({
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    name: volume,
  });
  await until('its volume is gone from the engines', async () => {
    const nodes = scratch.cluster.nodes.map(({ name }) => name);
    const lists = await Promise.all(
      nodes.map((each) => scratch.cluster.driver.engineVolumes(each)),
    );
    return lists.flat().some(({ name }) => name === volume) ? undefined : true;
  });
});
