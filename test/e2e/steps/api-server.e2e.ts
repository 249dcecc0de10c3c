/** The API server goes away under load: volumes work on, and everything finds it again. */
import { expect } from '@jest/globals';
import { components } from '../support/driver.ts';
import { useScratch } from '../support/scratch.ts';
import { stepNeeds } from '../support/step.ts';
import { delay } from '../support/waiting.ts';
import { Writer } from '../support/writer.ts';

const scratch = useScratch('api-server');

stepNeeds(
  ['restart-api-server'],
  'the API server is restarted while volumes are made and written',
  async () => {
    const { cluster } = scratch;
    const writers = await Promise.all(
      cluster.nodes.map(async ({ name }) => {
        await scratch.claim(`data-${name}`);
        return await Writer.start(scratch, `writer-${name}`, { claim: `data-${name}`, node: name });
      }),
    );
    const before = restarts(await cluster.driver.pods(components.dataPlane));
    const names = ['a', 'b', 'c', 'd'];
    for (const name of names) {
      await scratch.claim(name);
      await scratch.pod(name, { mounts: { '/data': name } });
    }
    await delay(1000);
    await cluster.restartApiServer();
    for (const name of names) await scratch.untilPodReady(name, 180_000);
    for (const writer of writers) {
      await writer.untilWrites(5);
      const { longestPauseMs } = await writer.check();
      // It is not in the way of I/O.
      expect(longestPauseMs).toBeLessThan(15_000);
    }
    await scratch.claim('afterwards');
    await scratch.podReady('afterwards', { mounts: { '/data': 'afterwards' } });
    await scratch.snapshotReady('afterwards', 'afterwards');
    // The data plane asks it for nothing.
    expect(restarts(await cluster.driver.pods(components.dataPlane))).toEqual(before);
  },
);

function restarts(
  pods: readonly {
    name: string;
    pod: { status?: { containerStatuses?: { restartCount: number }[] } };
  }[],
): [string, number[]][] {
  return pods.map(({ name, pod }) => [
    name,
    (pod.status?.containerStatuses ?? []).map(({ restartCount }) => restartCount),
  ]);
}
