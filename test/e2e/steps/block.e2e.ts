/** Raw block volumes: a device in the pod, whose bytes stay. */
import { describe, expect } from '@jest/globals';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';

const scratch = useScratch('block');

describe.each(readState().nodes.map(({ name }) => name))('on node %s', (node) => {
  step(
    'a raw block volume keeps its bytes from pod to pod, and reads zeros elsewhere',
    async () => {
      const claim = `raw-${node}`;
      await scratch.claim(claim, { mode: 'Block', size: '64Mi' });
      await scratch.podReady(`author-${node}`, { node, devices: { '/dev/volume': claim } });
      const sum = await scratch.shell(
        `author-${node}`,
        `dd if=/dev/urandom of=/dev/volume bs=64k seek=100 count=64 conv=fsync 2>/dev/null
       dd if=/dev/volume bs=64k skip=100 count=64 2>/dev/null | sha256sum`,
      );
      await scratch.removePod(`author-${node}`);
      const read = await scratch.podEnds(`reader-${node}`, {
        script: `dd if=/dev/volume bs=64k skip=100 count=64 2>/dev/null | sha256sum
               dd if=/dev/volume bs=64k count=100 2>/dev/null | tr -d '\\0' | wc -c`,
        devices: { '/dev/volume': claim },
      });
      expect(
        read
          .trim()
          .split('\n')
          .map((line) => line.trim()),
      ).toEqual([sum, '0']);
    },
  );

  step('a snapshot of a raw block volume can be restored', async () => {
    const source = { kind: 'VolumeSnapshot', name: `taken-${node}` } as const;
    await scratch.snapshotReady(source.name, `raw-${node}`);
    await scratch.claim(`restored-${node}`, { mode: 'Block', size: '64Mi', source });
    const read = await scratch.podEnds(`restored-reader-${node}`, {
      script: 'dd if=/dev/volume bs=64k skip=100 count=1 2>/dev/null | tr -d "\\0" | wc -c',
      node,
      devices: { '/dev/volume': `restored-${node}` },
    });
    expect(Number(read)).toBeGreaterThan(60_000);
  });
});
