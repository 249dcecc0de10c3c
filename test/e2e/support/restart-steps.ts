/** Whatever of ours, or of Kubernetes, is restarted on a node: a pod that writes to its volume goes on. */
import { afterAll, beforeAll, describe, expect } from '@jest/globals';
import { nodeWhich } from './cluster.ts';
import { components } from './driver.ts';
import type { Scratch } from './scratch.ts';
import type { NodeState } from './state.ts';
import { step } from './step.ts';
import { Writer } from './writer.ts';
import { checkLines } from './written-lines.ts';

/** All of them, on one node. */
export function restartSteps(scratch: Scratch, { name, kernelNbd }: NodeState): void {
  describe(`on node ${name}`, () => {
    const strategy = kernelNbd ? 'kernel' : 'fuse';
    const claim = `data-${name}`;
    let writer: Writer;

    beforeAll(async () => {
      await scratch.claim(claim);
      writer = await Writer.start(scratch, `writer-${name}`, { claim, node: name });
    }, 180_000);

    afterAll(async () => {
      await scratch.removePod(`writer-${name}`);
    }, 180_000);

    step('the kubelet is restarted: the writer goes on, and new pods come', async () => {
      const node = nodeWhich(scratch.cluster, name, (each) => each.name === name);
      await node.restartKubelet();
      await writer.untilWrites(20);
      await writer.check();
      await scratch.claim(`after-kubelet-${name}`);
      const mounts = { '/data': `after-kubelet-${name}` };
      await scratch.podReady(`after-kubelet-${name}`, { node: name, mounts });
      await scratch.removePod(`after-kubelet-${name}`);
    });

    step('the node pod is deleted: the writer goes on, and new pods come', async () => {
      await scratch.cluster.driver.replace(components.node, name);
      await writer.untilWrites(20);
      await writer.check();
      await scratch.claim(`after-node-${name}`);
      const mounts = { '/data': `after-node-${name}` };
      await scratch.podReady(`after-node-${name}`, { node: name, mounts });
      await scratch.removePod(`after-node-${name}`);
    });

    step(`the volumedriver is killed (${strategy}): a pause, and no error`, async () => {
      const node = nodeWhich(scratch.cluster, name, (each) => each.name === name);
      await scratch.cluster.driver.killContainer(components.dataPlane, 'volumedriver', node);
      await writer.untilWrites(20);
      const { longestPauseMs } = await writer.check();
      expect(longestPauseMs).toBeLessThan(60_000);
    });

    if (kernelNbd) {
      step('the data-plane pod is deleted (kernel): a pause, and no error', async () => {
        await scratch.cluster.driver.replace(components.dataPlane, name, 240_000);
        await writer.untilWrites(20, 150_000);
        const { longestPauseMs } = await writer.check();
        expect(longestPauseMs).toBeLessThan(120_000);
      });
    } else {
      step(
        'the data-plane pod is deleted (fuse): pods are started anew, and nothing that was synced is lost',
        async () => {
          const { driver } = scratch.cluster;
          await driver.replace(components.dataPlane, name, 240_000);
          const acknowledged = await writer.untilFails();
          await scratch.removePod(`writer-${name}`);
          const text = await scratch.podEnds(`reader-${name}`, {
            script: 'cat /data/log',
            mounts: { '/data': claim },
          });
          expect(checkLines(text, acknowledged).count).toBeGreaterThanOrEqual(acknowledged);
        },
      );
    }
  });
}
