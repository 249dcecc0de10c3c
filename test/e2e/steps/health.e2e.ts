/** A volume that is damaged on disk: its user hears of it, nothing wrong is served, and it can be mended. */
import { expect } from '@jest/globals';
import { nodeWhich } from '../support/cluster.ts';
import { components } from '../support/driver.ts';
import { useScratch } from '../support/scratch.ts';
import { step } from '../support/step.ts';

const scratch = useScratch('health');

step('a damaged volume is told to its claim, and is whole again after it was mended', async () => {
  const { driver } = scratch.cluster;
  const node = nodeWhich(scratch.cluster, 'at all', () => true);
  await scratch.claim('damaged');
  await scratch.claim('sound');
  await scratch.podReady('author', {
    node: node.name,
    mounts: { '/data': 'damaged', '/sound': 'sound' },
  });
  await scratch.shell('author', 'echo precious >/data/x; echo fine >/sound/x; sync');
  await scratch.removePod('author');

  const ulid = (await scratch.handleOf('damaged')).split('.')[1] ?? '';
  const slots = `/var/lib/${driver.name}/backend/volumes/${ulid}/slots`;
  const newest = (await node.run(['sh', '-c', `ls ${slots} | sort | tail -n 1`])).trim();
  const file = `${slots}/${newest}`;
  // Moved away, not overwritten: it may be a hard link to what the data directory has.
  const kept = `/var/lib/${driver.name}/kept-by-e2e`;
  const damage = `mv ${file} ${kept} && cp -p ${kept} ${file}
    printf damage | dd of=${file} bs=1 seek=200 conv=notrunc 2>/dev/null`;
  await node.run(['sh', '-c', damage]);
  await driver.killContainer(components.dataPlane, 'volumedriver', node);

  const claim = scratch.reference('PersistentVolumeClaim', 'damaged');
  const event = await scratch.untilEvent(claim, /damaged|CORRUPT|DataLoss/i, 150_000);
  expect(event).not.toBe('');
  // Others are not concerned.
  const read = await scratch.podEnds('neighbour', {
    script: 'cat /sound/x',
    mounts: { '/sound': 'sound' },
  });
  expect(read.trim()).toBe('fine');

  await node.run(['mv', kept, file]);
  await driver.killContainer(components.dataPlane, 'volumedriver', node);
  const mended = await scratch.podEnds('reader', {
    script: 'cat /data/x',
    mounts: { '/data': 'damaged' },
  });
  expect(mended.trim()).toBe('precious');
});
