/** A node goes: in good order, and as if its power went. Its volumes are on it, and wait for it. */
import { afterAll, expect } from '@jest/globals';
import type { KubernetesObject, V1Node, V1VolumeAttachment } from '@kubernetes/client-node';
import { nodeWhich, untilNodeReady } from '../support/cluster.ts';
import type { RemoteNode } from '../support/control-server.ts';
import { components } from '../support/driver.ts';
import { useScratch } from '../support/scratch.ts';
import { stepNeeds } from '../support/step.ts';
import { until } from '../support/waiting.ts';
import { Writer } from '../support/writer.ts';
import { checkLines } from '../support/written-lines.ts';

const scratch = useScratch('node-loss');
const needs = ['second-node'] as const;
const outOfService = 'node.kubernetes.io/out-of-service';

stepNeeds(
  needs,
  'a node is rebooted in good order: it unmounts within 60 s, and nothing is lost',
  async () => {
    const node = lostNode();
    await scratch.claim('rebooted');
    const writer = await Writer.start(scratch, 'reboot-writer', {
      claim: 'rebooted',
      node: node.name,
      restartPolicy: 'Always',
    });
    await writer.untilWrites(50);
    const acknowledged = await writer.acknowledged();
    const { shutdownMs } = await node.reboot();
    expect(shutdownMs).toBeLessThan(60_000);
    await untilNodeIsBack(node);
    const text = await until('the writer has been started again', async () => {
      const found = await scratch.shell('reboot-writer', 'cat /data/log').catch(() => undefined);
      const lines = found?.split('\n').length ?? 0;
      return lines > acknowledged + 5 ? found : undefined;
    });
    expect(checkLines(text, acknowledged).count).toBeGreaterThan(acknowledged);
    await scratch.removePod('reboot-writer');
    await scratch.removeClaim('rebooted');
  },
);

stepNeeds(
  needs,
  'a node is killed: with the out-of-service taint its pods and attachments go',
  async () => {
    const { kube } = scratch.cluster;
    const node = lostNode();
    await scratch.claim('killed');
    await scratch.claim('unwanted');
    const writer = await Writer.start(scratch, 'doomed', { claim: 'killed', node: node.name });
    await scratch.podReady('doomed-too', { node: node.name, mounts: { '/data': 'unwanted' } });
    await writer.untilWrites(50);
    acknowledgedBeforeKill = await writer.acknowledged();
    await node.kill();
    await untilNodeNotReady(node.name);
    await kube.patch(nodeReference(node.name), {
      spec: { taints: [{ key: outOfService, value: 'nodeshutdown', effect: 'NoExecute' }] },
    });
    for (const pod of ['doomed', 'doomed-too']) {
      await kube.untilGone(scratch.reference('Pod', pod), { limitMs: 150_000 });
    }
    for (const claim of ['killed', 'unwanted']) await untilDetached(await scratch.volumeOf(claim));
  },
);

stepNeeds(
  needs,
  'a volume of a dead node is not deleted before the node is back, and an event says so',
  async () => {
    const { kube } = scratch.cluster;
    const node = lostNode();
    const volume = await scratch.volumeOf('unwanted');
    const reference = { apiVersion: 'v1', kind: 'PersistentVolume', name: volume };
    await kube.remove(scratch.reference('PersistentVolumeClaim', 'unwanted'));
    const event = await scratch.untilEvent(reference, /VolumeFailedDelete.*Unavailable/i, 120_000);
    expect(event).toContain(node.name);
    expect(event).toContain('vdctl node forget');

    await node.start();
    await untilNodeIsBack(node);
    await removeTaints(node.name);
    await kube.untilGone(reference, { limitMs: 240_000 });
    await until('its volume is gone from the engine', async () => {
      const left = await scratch.cluster.driver.engineVolumes(node.name);
      return left.some(({ name }) => name === volume) ? undefined : true;
    });
  },
);

stepNeeds(
  needs,
  'what was synced before the node was killed is there after its return',
  async () => {
    const text = await scratch.podEnds(
      'after-kill',
      { script: 'cat /data/log', mounts: { '/data': 'killed' } },
      180_000,
    );
    expect(checkLines(text, acknowledgedBeforeKill).count).toBeGreaterThanOrEqual(
      acknowledgedBeforeKill,
    );
  },
);

stepNeeds(needs, 'a volume of a dead node can be deleted after `vdctl node forget`', async () => {
  const { kube } = scratch.cluster;
  const node = lostNode();
  const volume = await scratch.volumeOf('killed');
  const reference = { apiVersion: 'v1', kind: 'PersistentVolume', name: volume };
  await kube.remove(scratch.reference('Pod', 'after-kill'));
  await kube.untilGone(scratch.reference('Pod', 'after-kill'));
  await untilDetached(volume);
  await node.kill();
  await untilNodeNotReady(node.name);
  await kube.remove(scratch.reference('PersistentVolumeClaim', 'killed'));
  await scratch.untilEvent(reference, /VolumeFailedDelete.*Unavailable/i, 150_000);
  await nodeCommand('forget', node.name);
  await kube.untilGone(reference, { limitMs: 240_000 });
});

stepNeeds(
  needs,
  'a forgotten node that comes back is used again after `vdctl node remember`',
  async () => {
    const { driver } = scratch.cluster;
    const node = lostNode();
    await node.start();
    await untilNodeIsBack(node);
    // Nobody else would ever remove it.
    const left = await driver.engineVolumes(node.name);
    expect(left).toHaveLength(1);
    for (const { id } of left) await driver.vdctl(node.name, 'volume', 'rm', id);
    await nodeCommand('remember', node.name);
    await scratch.claim('afresh');
    await scratch.podReady('afresh', { node: node.name, mounts: { '/data': 'afresh' } });
    await scratch.removePod('afresh');
    await scratch.removeClaim('afresh');
  },
);

let acknowledgedBeforeKill = 0;

/** Whatever a step left it in. */
afterAll(async () => {
  const { cluster } = scratch;
  const node = cluster.nodes.find(({ ownKernel }) => ownKernel);
  if (node === undefined) return;
  const state = await cluster.kube.get<V1Node>(nodeReference(node.name));
  if (!isReady(state)) {
    await node.start();
    await untilNodeIsBack(node);
  }
  await removeTaints(node.name);
}, 240_000);

function lostNode(): RemoteNode {
  return nodeWhich(scratch.cluster, 'with a kernel of its own', ({ ownKernel }) => ownKernel);
}

/** Of vdctl, in a controller that runs. */
async function nodeCommand(command: 'forget' | 'remember', name: string): Promise<void> {
  const { kube, driver } = scratch.cluster;
  const controllers = await driver.pods(components.controller);
  const controller = controllers.find((pod) => pod.node !== name);
  if (controller === undefined) throw new Error('no controller on a node that lives');
  await kube.exec(controller, ['vdctl', 'node', command, name], { container: 'controller' });
}

async function untilDetached(volume: string): Promise<void> {
  await until(
    `the attachment of ${volume} is gone`,
    async () => {
      const { kube } = scratch.cluster;
      const all = await kube.list<V1VolumeAttachment>('storage.k8s.io/v1', 'VolumeAttachment');
      return all.some(({ spec }) => spec.source.persistentVolumeName === volume) ? undefined : true;
    },
    { limitMs: 150_000 },
  );
}

async function untilNodeIsBack(node: RemoteNode): Promise<void> {
  await untilNodeReady(scratch.cluster, node.name, 180_000);
  const count = scratch.cluster.nodes.length;
  await scratch.cluster.driver.untilReady(components.dataPlane, count);
  await scratch.cluster.driver.untilReady(components.node, count);
}

async function untilNodeNotReady(name: string): Promise<void> {
  await scratch.cluster.kube.untilIs<V1Node>(
    nodeReference(name),
    'is not ready',
    (node) => !isReady(node),
    { limitMs: 120_000 },
  );
}

async function removeTaints(name: string): Promise<void> {
  const { kube } = scratch.cluster;
  const { spec } = await kube.get<V1Node & KubernetesObject>(nodeReference(name));
  const taints = (spec?.taints ?? []).filter(({ key }) => key !== outOfService);
  await kube.patch(nodeReference(name), { spec: { taints } });
}

function isReady({ status }: V1Node): boolean {
  return (
    status?.conditions?.some((each) => each.type === 'Ready' && each.status === 'True') === true
  );
}

function nodeReference(name: string): { apiVersion: string; kind: string; name: string } {
  return { apiVersion: 'v1', kind: 'Node', name };
}
