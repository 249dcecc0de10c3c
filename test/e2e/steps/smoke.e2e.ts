/** The shortest proof that what is installed works: one volume, one writer, one crash under it. */
import { expect } from '@jest/globals';
import { nodeWhich } from '../support/cluster.ts';
import { components } from '../support/driver.ts';
import { useScratch } from '../support/scratch.ts';
import { step } from '../support/step.ts';
import { Writer } from '../support/writer.ts';

const scratch = useScratch('smoke');

step(
  'a writer survives kill -9 of the volumedriver without an error, and nothing is lost',
  async () => {
    const { cluster } = scratch;
    const node = nodeWhich(cluster, 'at all', () => true);
    await scratch.claim('data');
    const writer = await Writer.start(scratch, 'writer', { claim: 'data', node: node.name });
    const sum = await scratch.shell(
      'writer',
      'dd if=/dev/urandom of=/data/file bs=1M count=8 conv=fsync 2>/dev/null; sha256sum </data/file',
    );
    await cluster.driver.killContainer(components.dataPlane, 'volumedriver', node);
    await writer.untilWrites(20);
    const { longestPauseMs } = await writer.check();
    expect(longestPauseMs).toBeLessThan(60_000);

    await scratch.removePod('writer');
    const read = await scratch.podEnds('reader', {
      script: 'sha256sum </data/file',
      mounts: { '/data': 'data' },
    });
    expect(read.trim()).toBe(sum);
  },
);

step('all of it goes when it is deleted', async () => {
  const { kube, driver } = scratch.cluster;
  const name = await scratch.volumeOf('data');
  await scratch.removePod('reader');
  await scratch.removeClaim('data');
  await kube.untilGone({ apiVersion: 'v1', kind: 'PersistentVolume', name });
  expect(await driver.allEngineVolumeIds(scratch.cluster.nodes.map((node) => node.name))).toEqual(
    [],
  );
});
