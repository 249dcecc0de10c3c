/** Snapshots, volumes restored from them, and clones: each holds what was there when it was taken. */
import { describe, expect } from '@jest/globals';
import { useScratch, type Scratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { step } from '../support/step.ts';

const scratch = useScratch('snapshots');

describe.each(readState().nodes.map(({ name }) => name))('on node %s', (node) => {
  const named = (name: string): string => `${name}-${node}`;

  step('a restored volume holds what was there when the snapshot was taken', async () => {
    await scratch.claim(named('source'));
    await scratch.podReady(named('author'), { node, mounts: { '/data': named('source') } });
    const sum = await fill(scratch, named('author'), 'before');
    const taken = await scratch.snapshotReady(named('taken'), named('source'));
    expect(taken.status?.restoreSize).toBe('64Mi');
    await scratch.shell(named('author'), 'echo later >/data/later; rm /data/before; sync');

    await scratch.claim(named('restored'), {
      source: { kind: 'VolumeSnapshot', name: named('taken') },
    });
    await scratch.podReady(named('reader'), { node, mounts: { '/data': named('restored') } });
    expect(await scratch.shell(named('reader'), 'ls /data')).toMatch(/^before(\s+lost\+found)?$/);
    expect(await scratch.shell(named('reader'), 'sha256sum </data/before')).toBe(sum);
    // They are independent from here on.
    await scratch.shell(named('reader'), 'echo own >/data/own; sync');
    expect(await scratch.shell(named('author'), 'ls /data')).not.toContain('own');
  });

  step('a snapshot can be restored to a larger volume, whose filesystem is larger', async () => {
    await scratch.claim(named('larger'), {
      size: '256Mi',
      source: { kind: 'VolumeSnapshot', name: named('taken') },
    });
    await scratch.podReady(named('large-reader'), { node, mounts: { '/data': named('larger') } });
    expect(await sizeMib(scratch, named('large-reader'))).toBeGreaterThan(200);
    expect(await scratch.shell(named('large-reader'), 'ls /data')).toContain('before');
  });

  step('a clone holds what its source holds, also a larger one', async () => {
    await scratch.shell(named('author'), 'echo cloned >/data/cloned; sync');
    await scratch.claim(named('clone'), {
      size: '128Mi',
      source: { kind: 'PersistentVolumeClaim', name: named('source') },
    });
    await scratch.podReady(named('clone-reader'), { node, mounts: { '/data': named('clone') } });
    expect(await scratch.shell(named('clone-reader'), 'cat /data/cloned')).toBe('cloned');
    expect(await sizeMib(scratch, named('clone-reader'))).toBeGreaterThan(100);
  });
});

async function fill(within: Scratch, pod: string, name: string): Promise<string> {
  const path = `/data/${name}`;
  const script = `dd if=/dev/urandom of=${path} bs=1M count=4 2>/dev/null; sync; sha256sum <${path}`;
  return await within.shell(pod, script);
}

async function sizeMib(within: Scratch, pod: string): Promise<number> {
  return Number(await within.shell(pod, "df -m /data | awk 'NR==2 {print $2}'"));
}
