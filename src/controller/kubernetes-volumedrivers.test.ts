/** How a controller finds volumedrivers through pods and registrations, and what it makes of contradictions. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { MemoryCluster, type MemoryNode } from '../../test/support/memory-cluster.ts';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { KubernetesVolumedrivers } from './kubernetes-volumedrivers.ts';
import { kubernetesNodes } from './kubernetes-nodes.ts';
import type { FoundBackend } from './volumedrivers.ts';

let cluster: MemoryCluster;
let n1: MemoryNode;
let volumedrivers: KubernetesVolumedrivers;
const open: KubernetesVolumedrivers[] = [];

beforeEach(async () => {
  cluster = new MemoryCluster();
  n1 = cluster.addNode('n1', 'aa');
  volumedrivers = openOne();
  await cluster.clock.advance(0);
});

afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

function openOne(): KubernetesVolumedrivers {
  const one = cluster.openVolumedrivers();
  open.push(one);
  return one;
}

async function backends(): Promise<string[]> {
  return (await volumedrivers.list()).map(({ backendId, nodeId }) => `${backendId} on ${nodeId}`);
}

async function ask(found: FoundBackend): Promise<string> {
  if (typeof found === 'string') return found;
  return (await found.volumes.info()).backendId;
}

describe('registering', () => {
  test('happens once a volumedriver has answered, and once for all controllers', async () => {
    const n2 = cluster.addNode('n2', 'bb', { running: false });
    await cluster.clock.advance(6_000);
    expect(await backends()).toEqual(['aa on n1']);
    expect(await volumedrivers.nodesToRegister()).toEqual(['n2']);
    n2.running = true;
    await cluster.clock.advance(6_000);
    expect(await backends()).toEqual(['aa on n1', 'bb on n2']);
    expect(await volumedrivers.nodesToRegister()).toEqual([]);
    expect([...cluster.registrations.keys()]).toEqual(['aa', 'bb']);
  });

  test('waits for a pod’s address, and for a volumedriver that still starts', async () => {
    const n2 = cluster.addNode('n2', 'bb', { running: false });
    cluster.replacePod(n2, null);
    n2.running = true;
    await cluster.clock.advance(6_000);
    expect(await volumedrivers.nodesToRegister()).toEqual(['n2']);
    n2.volumes.ready = false;
    cluster.replacePod(n2);
    await cluster.clock.advance(6_000);
    expect(await volumedrivers.nodesToRegister()).toEqual(['n2']);
    n2.volumes.ready = true;
    await cluster.clock.advance(6_000);
    expect(await volumedrivers.nodesToRegister()).toEqual([]);
  });

  test('waits for the API server: without a registration nothing is made there', async () => {
    await volumedrivers.list();
    cluster.apiServerAway = true;
    cluster.addNode('n2', 'bb');
    await cluster.clock.advance(6_000);
    expect(await backends()).toEqual(['aa on n1']);
    expect(await volumedrivers.nodesToRegister()).toEqual(['n2']);
    await expect(volumedrivers.ofBackend('bb')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    cluster.apiServerAway = false;
    await cluster.clock.advance(6_000);
    expect(await ask(await volumedrivers.ofBackend('bb'))).toBe('bb');
  });

  test('another controller finds at once what this one registered a moment ago', async () => {
    const other = openOne();
    await other.list();
    cluster.registrations.set('cc', {
      ...{ backendId: 'cc', nodeId: 'n3', shared: false, forgotten: false },
    });
    expect(typeof (await other.ofBackend('cc'))).toBe('object');
  });

  test('of a node that is down was done before: a new controller does not wait for it', async () => {
    await volumedrivers.list();
    n1.running = false;
    const late = openOne();
    await cluster.clock.advance(10_000);
    expect(await late.list()).toHaveLength(1);
    expect(await late.nodesToRegister()).toEqual([]);
    expect(await late.ofBackend('zz')).toBe('unknown');
    n1.running = true;
    await cluster.clock.advance(6_000);
    expect(await ask(await late.ofBackend('aa'))).toBe('aa');
  });

  test('of a node that calls itself differently is refused', async () => {
    cluster.addNode('n2', 'bb', { nodeId: 'localhost' });
    await cluster.clock.advance(6_000);
    expect(cluster.registrations.has('bb')).toBe(false);
  });

  test('of a copy of a backend that another node serves is refused', async () => {
    cluster.addNode('n2', 'bb', { backendId: 'aa' });
    await cluster.clock.advance(20_000);
    expect(cluster.registrations.get('aa')?.nodeId).toBe('n1');
    expect(await backends()).toEqual(['aa on n1']);
  });

  test.each([
    ['is down', () => (n1.running = false)],
    [
      'starts again',
      () => {
        n1.running = false;
        cluster.replacePod(n1);
      },
    ],
    [
      'has no volumedriver for a moment',
      () => {
        cluster.removePod(n1);
      },
    ],
  ])('of a copy is refused while the original’s node %s', async (_, happen) => {
    cluster.addNode('n2', 'bb', { backendId: 'aa' });
    happen();
    openOne();
    await cluster.clock.advance(20_000);
    expect(cluster.registrations.get('aa')?.nodeId).toBe('n1');
    n1.running = true;
    cluster.replacePod(n1);
    await cluster.clock.advance(6_000);
    expect(await ask(await volumedrivers.ofBackend('aa'))).toBe('aa');
    expect(await backends()).toEqual(['aa on n1']);
  });

  test.each([
    ['is gone', () => cluster.gone.add('n1')],
    [
      'has another disk now',
      () => {
        cluster.replaceBackend(n1, 'cc');
      },
    ],
  ])(
    'a disk that moves to another node takes its backend along when its node %s',
    async (_, go) => {
      cluster.removePod(n1);
      const n2 = cluster.addNode('n2', 'aa');
      await cluster.clock.advance(10_000);
      expect(cluster.registrations.get('aa')?.nodeId).toBe('n1');
      go();
      await cluster.clock.advance(20_000);
      expect(await backends()).toContain('aa on n2');
      expect(await ask(await volumedrivers.ofBackend('aa'))).toBe('aa');
      expect(n2.running).toBe(true);
    },
  );

  test('a disk whose node was forgotten moves, and is forgotten still', async () => {
    n1.running = false;
    cluster.mark('n1', true);
    cluster.addNode('n2', 'aa');
    await cluster.clock.advance(10_000);
    expect(cluster.registrations.get('aa')).toMatchObject({ nodeId: 'n2', forgotten: true });
    cluster.mark('n2', false);
    await cluster.clock.advance(10_000);
    expect(await ask(await volumedrivers.ofBackend('aa'))).toBe('aa');
  });

  test('what was forgotten counts as such only while it is', async () => {
    cluster.mark('n1', true);
    await cluster.clock.advance(10_000);
    expect(await volumedrivers.ofBackend('aa')).toBe('forgotten');
    cluster.mark('n1', false);
    expect(await volumedrivers.ofBackend('aa')).toMatchObject({ backendId: 'aa' });
    cluster.mark('n1', true);
    await volumedrivers.ofBackend('zz');
    cluster.apiServerAway = true;
    await expect(volumedrivers.ofBackend('aa')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('a registration that is lost is made again', async () => {
    cluster.registrations.clear();
    await cluster.clock.advance(6_000);
    await volumedrivers.list();
    await cluster.clock.advance(12_000);
    expect(cluster.registrations.has('aa')).toBe(true);
  });
});

describe('reaching', () => {
  test('goes to the pod that is there now', async () => {
    const [found] = await volumedrivers.list();
    cluster.replacePod(n1, '192.0.2.7');
    expect((await found?.volumes.info())?.nodeId).toBe('n1');
    cluster.removePod(n1);
    await expect(found?.volumes.info()).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('no volumedriver runs there'),
    });
  });

  test('a node that does not answer is asked again only after a moment, and then found', async () => {
    n1.running = false;
    cluster.replacePod(n1);
    const found = await volumedrivers.ofBackend('aa');
    await expect(ask(found)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    n1.running = true;
    await expect(ask(found)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await cluster.clock.advance(2_500);
    expect(await ask(found)).toBe('aa');
  });

  test('never a volumedriver that has another backend now; new volumes go to that one', async () => {
    const found = await volumedrivers.ofBackend('aa');
    cluster.replaceBackend(n1, 'bb');
    await cluster.clock.advance(6_000);
    await expect(ask(found)).rejects.toMatchObject({
      message: expect.stringContaining('has the backend bb now'),
    });
    expect(await backends()).toEqual(['bb on n1']);
    expect(typeof (await volumedrivers.ofBackend('aa'))).toBe('object');
  });

  test('what a new backend behind the same address does not have is not gone', async () => {
    const found = await volumedrivers.ofBackend('aa');
    if (typeof found === 'string') throw new Error(found);
    const { id } = await found.volumes.createVolume({ name: 'v', sizeBytes: 4096 });
    // The same pod is started again with another disk, within the time that its last answer counts.
    n1.volumes = new MemoryVolumeService({ nodeId: 'n1', backendId: 'bb' });
    await expect(found.volumes.getVolume(id)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('has the backend bb now'),
    });
    await expect(found.volumes.getSnapshot({ snapshot: id })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });

  test('an answer that something is not there yet is not taken for a node that is away', async () => {
    const found = await volumedrivers.ofBackend('aa');
    expect(await ask(found)).toBe('aa');
    n1.volumes.failNext('capacity', new VolumeError('UNAVAILABLE', 'the disk hangs'));
    const refused = typeof found === 'string' ? undefined : found.volumes.capacity();
    await expect(refused).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: 'node n1: the disk hangs',
    });
  });

  test('a node that went a moment ago is named at once, with what to do', async () => {
    const found = await volumedrivers.ofBackend('aa');
    expect(await ask(found)).toBe('aa');
    n1.running = false;
    await expect(ask(found)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('vdctl node forget n1'),
    });
  });

  test('a volumedriver that hangs is not waited for long', async () => {
    n1.volumes.info = () => new Promise(() => undefined);
    cluster.replacePod(n1);
    const found = await volumedrivers.ofBackend('aa');
    const asked = ask(found).catch((error: unknown) => error);
    await cluster.clock.advance(5_000);
    expect(await asked).toMatchObject({ code: 'UNAVAILABLE' });
  });
});

describe('while the API server is away', () => {
  test('what was known goes on, and what it would have to tell waits', async () => {
    await volumedrivers.list();
    cluster.apiServerAway = true;
    await cluster.clock.advance(60_000);
    expect(await backends()).toEqual(['aa on n1']);
    expect(await ask(await volumedrivers.ofBackend('aa'))).toBe('aa');
    await expect(volumedrivers.ofBackend('zz')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('a controller that starts then knows nothing, and says so', async () => {
    cluster.apiServerAway = true;
    const late = openOne();
    await expect(late.list()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    cluster.pods.synced = false;
    await expect(late.nodesToRegister()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    cluster.apiServerAway = false;
    expect(await late.list()).toHaveLength(1);
  });

  test('a node that was seen is known; whether it is gone, nobody can say', async () => {
    const nodes = kubernetesNodes(cluster);
    expect(await nodes.isKnownNode('n1')).toBe(true);
    cluster.addNode('n2', 'bb');
    cluster.apiServerAway = true;
    expect(await nodes.isKnownNode('n1')).toBe(true);
    await expect(nodes.isKnownNode('n2')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(nodes.isGone('n1')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });
});
