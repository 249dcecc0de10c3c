import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { silentLogger } from '../base/logger.ts';
import { MemoryCluster, type MemoryNode } from '../../test/support/memory-cluster.ts';
import { VolumeError } from '../volumes/errors.ts';
import { HealthWatcher } from './health-watcher.ts';
import type { KubernetesVolumedrivers } from './kubernetes-volumedrivers.ts';

let cluster: MemoryCluster;
let n1: MemoryNode;
let n2: MemoryNode;
let volumedrivers: KubernetesVolumedrivers;
let watcher: HealthWatcher;
let ids: string[];
let events: string[];

beforeEach(async () => {
  cluster = new MemoryCluster();
  n1 = cluster.addNode('n1', 'aa');
  n2 = cluster.addNode('n2', 'bb');
  volumedrivers = cluster.openVolumedrivers();
  events = [];
  ids = [];
  for (const node of [n1, n2]) {
    ids.push((await node.volumes.createVolume({ name: node.nodeId, sizeBytes: 4096 })).id);
  }
  watcher = new HealthWatcher({
    volumedrivers,
    clock: cluster.clock,
    logger: silentLogger,
    sink: {
      volumeIds: () => ids,
      report: ({ volumeId, type, reason }) => {
        events.push(`${volumeId.slice(0, 2)} ${type} ${reason}`);
      },
    },
  });
  await cluster.clock.advance(0);
});

afterEach(async () => {
  await watcher.close();
  await volumedrivers.close();
});

/** What was said in the next rounds. */
async function said(rounds = 1): Promise<string[]> {
  events.length = 0;
  await cluster.clock.advance(rounds * 60_000);
  return [...events];
}

describe('the watcher', () => {
  test('says nothing while all is well', async () => {
    expect(await said(3)).toEqual([]);
  });

  test('tells of a halted volume, again while it lasts, and when it is over, once', async () => {
    const [id = ''] = ids;
    n1.volumes.setHalted(id, 'EIO');
    expect(await said(2)).toEqual(['aa Warning VolumeHalted', 'aa Warning VolumeHalted']);
    n1.volumes.setHalted(id, null);
    expect(await said(2)).toEqual(['aa Normal VolumeHealthy']);
  });

  test('tells of a node only when it is away for more than a moment', async () => {
    n2.running = false;
    expect(await said()).toEqual([]);
    n2.running = true;
    expect(await said()).toEqual([]);
    n2.running = false;
    expect(await said(2)).toEqual(['bb Warning VolumedriverUnreachable']);
    n2.running = true;
    expect(await said(2)).toEqual(['bb Normal VolumeHealthy']);
  });

  test('tells of volumes that are damaged or missing, which no list has', async () => {
    const [id = ''] = ids;
    await n1.volumes.removeVolume(id, 'deferred');
    n1.volumes.failNext('getVolume', new VolumeError('CORRUPT', 'a checksum'));
    expect(await said()).toEqual(['aa Warning VolumeDamaged']);
    expect(await said()).toEqual(['aa Warning VolumeMissing']);
    ids.push('zz.unknown');
    expect(await said()).toContain('zz Warning VolumeMissing');
  });

  test('tells whose node was given up', async () => {
    await said();
    cluster.mark('n2', true);
    expect(await said()).toEqual(['bb Warning NodeForgotten']);
  });

  test('says nothing of volumes that nobody has any more, nor without the API server', async () => {
    const [id = ''] = ids;
    n1.volumes.setHalted(id, 'EIO');
    await said();
    ids.shift();
    expect(await said()).toEqual([]);
    ids.unshift(id);
    cluster.apiServerAway = true;
    expect(await said()).toEqual(['aa Warning VolumeHalted']);
    await volumedrivers.close();
    const late = cluster.openVolumedrivers();
    await expect(late.list()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await late.close();
  });
});
