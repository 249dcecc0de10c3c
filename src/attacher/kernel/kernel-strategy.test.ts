import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { shutdownSocket } from '../../base/ffi-sockets.ts';
import { transmissionFlags } from '../../nbd/protocol.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { identity, KernelWorld, openDescriptors } from '../../../test/support/kernel-world.ts';
import { eventually } from '../../../test/support/nbd-fixture.ts';
import type { Inspection } from '../strategy.ts';
import { MemoryStorage } from '../../../test/support/memory-device.ts';
import { KernelStrategy } from './kernel-strategy.ts';
import { runCommand } from '../../volumes/command.ts';
import { systemClock } from '../../base/clock.ts';
import { silentLogger } from '../../base/logger.ts';

const sizeBytes = 1024 * 1024;
const attached: Inspection = { path: '/dev/nbd0', sizeBytes, state: 'attached', reason: '' };

let world: KernelWorld;
beforeEach(async () => {
  world = await KernelWorld.open();
});
afterEach(async () => {
  await world.close();
});

describe('attaching', () => {
  test('connects a device with an identifier and saves how to find it', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    expect(await life.strategy.attach(target, life.save)).toEqual(attached);
    const identifier = `${identity.driverName}/${identity.instanceId}/vol#1`;
    expect(world.model.device(0)).toMatchObject({ identifier, sizeBytes, ioTimeoutMs: 2000 });
    expect(life.details).toMatchObject({ index: 0, identifier, connectorPid: 710, failed: null });
    expect(life.details?.['sockets']).toEqual(world.model.liveSockets(0));
    expect(await life.strategy.inspect(target, life.details ?? {})).toEqual(attached);
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(false);
    expect(await life.strategy.list()).toEqual([target.key]);
  });

  test.each([true, false])(
    'tells the kernel of a device that is read-only: %s',
    async (readOnly) => {
      const target = world.volume('vol', { readOnly });
      const life = await world.live();
      await life.strategy.attach(target, life.save);
      const { READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM } = transmissionFlags;
      const { serverFlags } = world.model.device(0);
      expect((serverFlags & READ_ONLY) !== 0).toBe(readOnly);
      expect(serverFlags & (SEND_FLUSH | SEND_FUA)).toBe(SEND_FLUSH | SEND_FUA);
      if (!readOnly) expect(serverFlags & SEND_TRIM).toBe(SEND_TRIM);
    },
  );

  test('shows whole sectors only', async () => {
    const target = world.volume('vol', { sizeBytes: sizeBytes + 511 });
    const life = await world.live();
    expect(await life.strategy.attach(target, life.save)).toEqual(attached);
  });

  test('takes several links, and leaves the timeout of requests alone then', async () => {
    const life = await world.live({ connections: 3 });
    await life.strategy.attach(world.volume('vol'), life.save);
    expect(world.model.liveSockets(0)).toHaveLength(3);
    expect(world.model.device(0).ioTimeoutMs).toBe(30_000);
  });

  test('fails and leaves nothing behind', async () => {
    const life = await world.live();
    const target = world.volume('vol');
    const before = openDescriptors();
    const other = { ...target.export, uri: target.export.uri.replace('vol', 'other') };
    const tcp = { ...target.export, uri: 'nbd://127.0.0.1/vol' };
    const tiny = world.volume('tiny', { sizeBytes: 511 });
    const attach = (request: typeof target): Promise<unknown> =>
      life.strategy.attach(request, life.save);
    const expectCode = async (request: typeof target, code: string): Promise<void> => {
      await expect(attach(request)).rejects.toMatchObject({ code });
    };
    await expectCode({ ...target, export: other }, 'VOLUME_NOT_FOUND');
    await expectCode({ ...target, export: tcp }, 'NOT_CAPABLE');
    await expectCode(tiny, 'OUT_OF_RANGE');
    world.exports.add('vol#1', new MemoryStorage(sizeBytes, { readOnly: true }));
    await expectCode(target, 'READ_ONLY');
    await eventually(() => openDescriptors() === before, 'the server to close its ends');
    await world.stopServer();
    await expectCode(target, 'UNAVAILABLE');
    expect(world.model.bound).toEqual([]);
    expect(life.details).toBeNull();
  });

  test('leaves an index alone that somebody holds open', async () => {
    const life = await world.live();
    const target = world.volume('vol');
    await life.strategy.attach(target, life.save);
    const user = world.model.hold(0);
    await life.strategy.detach(target, life.details);
    expect(await life.strategy.list()).toEqual([]);
    const again = await life.strategy.attach(target, life.save);
    expect(again.path).toBe('/dev/nbd1');
    expect(await life.strategy.list()).toEqual([target.key]);
    await life.strategy.detach(target, life.details);
    await user.close();
    expect(world.model.devices.map(({ pid }) => pid)).toEqual([null, null]);
  });
});

describe('healing', () => {
  test('gives a device a new link, and finds that out', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const before = openDescriptors();
    await world.restartServer();
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(true);
    expect(await life.strategy.inspect(target, life.details ?? {})).toMatchObject({
      state: 'waiting',
    });
    expect(world.model.liveSockets(0)).toEqual([]);
    expect(await life.strategy.heal(target, life.details ?? {}, life.save)).toEqual(attached);
    expect(life.details?.['sockets']).toEqual(world.model.liveSockets(0));
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(false);
    expect(await life.strategy.inspect(target, life.details ?? {})).toEqual(attached);
    await eventually(() => openDescriptors() === before, 'as many descriptors as before');
  });

  test('goes on until the kernel has noticed', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    await world.restartServer();
    world.model.unnoticed = 7;
    const heal = (): Promise<Inspection> =>
      life.strategy.heal(target, life.details ?? {}, life.save);
    expect(await heal()).toMatchObject({ state: 'waiting' });
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(true);
    expect(await life.strategy.inspect(target, life.details ?? {})).toMatchObject({
      state: 'waiting',
    });
    expect(await heal()).toEqual(attached);
    expect(world.model.liveSockets(0)).toEqual(life.details?.['sockets']);
    await eventually(() => world.clients === 1, 'one link');
  });

  test.each([
    ['links of another process', false],
    ['links of another process and another network namespace', true],
  ])('looks after %s', async (_name, hides) => {
    const target = world.volume('vol');
    const first = await world.live({ connections: 2 });
    await first.strategy.attach(target, first.save);
    const { details } = first;
    await first.strategy.close();
    world.model.hidesSockets = hides;
    const life = await world.live({ details });
    const heal = (): Promise<Inspection> =>
      life.strategy.heal(target, life.details ?? {}, life.save);
    const sockets = world.model.liveSockets(0);
    expect(sockets).toHaveLength(2);
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(true);
    expect(await heal()).toEqual(attached);
    expect(world.model.liveSockets(0)).toEqual(sockets);
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(false);
    await world.restartServer();
    // Nothing tells, but for the kernel's event.
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(false);
    const troubled: string[] = [];
    life.strategy.onTrouble((key) => troubled.push(key));
    world.model.tellLinkDead(0);
    expect(troubled).toEqual([target.key]);
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(true);
    expect(await heal()).toEqual(attached);
    expect(world.model.liveSockets(0).length).toBeGreaterThan(0);
  });

  test('keeps what works when an event comes late', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const sockets = world.model.liveSockets(0);
    world.model.tellLinkDead(0);
    expect(await life.strategy.heal(target, life.details ?? {}, life.save)).toEqual(attached);
    expect(world.model.liveSockets(0)).toEqual(sockets);
    // Our descriptor is still there: the next death is noticed at once.
    await world.restartServer();
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(true);
  });

  test('asks again for all devices when events were lost', async () => {
    const life = await world.live();
    const targets = [world.volume('a'), world.volume('b')];
    for (const target of targets) await life.strategy.attach(target, life.save);
    const troubled: string[] = [];
    life.strategy.onTrouble((key) => troubled.push(key));
    world.model.tellLinkDead(null);
    expect(troubled).toEqual(targets.map(({ key }) => key));
  });

  test('replaces the one of several links that died', async () => {
    const target = world.volume('vol');
    const life = await world.live({ connections: 3 });
    await life.strategy.attach(target, life.save);
    const before = world.model.liveSockets(0);
    shutdownSocket(world.model.device(0).sockets[1] ?? -1);
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(true);
    expect(await life.strategy.heal(target, life.details ?? {}, life.save)).toEqual(attached);
    const after = world.model.liveSockets(0);
    expect(after).toHaveLength(3);
    expect([after[0], after[2]]).toEqual([before[0], before[2]]);
    expect(new Set(life.details?.['sockets'] as string[])).toEqual(new Set(after));
    expect(await life.strategy.isSuspect(target, life.details ?? {})).toBe(false);
  });

  test('waits for a server that is away, and knows a hopeless one', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const before = life.details;
    await world.stopServer();
    const heal = (): Promise<Inspection> =>
      life.strategy.heal(target, life.details ?? {}, life.save);
    expect(await heal()).toMatchObject({ path: '/dev/nbd0', state: 'waiting' });
    world.volume('vol', { sizeBytes: sizeBytes / 2 });
    await world.startServer();
    const smaller = await heal();
    expect(smaller.state).toBe('broken');
    expect(smaller.reason).toContain(`${sizeBytes / 2} bytes`);
    world.exports.add('vol#1', new MemoryStorage(sizeBytes, { readOnly: true }));
    expect(await heal()).toMatchObject({ state: 'broken' });
    const other = { ...target.export, uri: target.export.uri.replace('vol', 'other') };
    const refused = { ...target, export: other };
    const { reason, state } = await life.strategy.heal(refused, life.details ?? {}, life.save);
    expect([state, reason]).toEqual(['broken', expect.stringContaining('the export is refused')]);
    expect(life.details).toEqual(before);
    world.volume('vol');
    expect(await heal()).toEqual(attached);
  });

  test('abandons a socket that the kernel may still take', async () => {
    const target = world.volume('vol');
    let isStuck = true;
    const life = await world.live({
      openControl: () => {
        const control = world.model.control({ hasIdentifiers: true });
        return Promise.resolve({
          ...control,
          reconfigure: (request) =>
            isStuck && request.sockets !== undefined
              ? Promise.reject(new VolumeError('UNAVAILABLE', 'reconfigure: no answer'))
              : control.reconfigure(request),
        });
      },
    });
    await life.strategy.attach(target, life.save);
    await world.restartServer();
    const heal = (): Promise<Inspection> =>
      life.strategy.heal(target, life.details ?? {}, life.save);
    expect(await heal()).toMatchObject({ state: 'waiting' });
    await eventually(() => world.clients === 0, 'the abandoned link to be cut');
    isStuck = false;
    expect(await heal()).toEqual(attached);
    expect(world.model.liveSockets(0)).toHaveLength(1);
  });
});

describe('giving up', () => {
  test('fails the I/O, keeps the index, and stays so over a restart', async () => {
    const target = world.volume('vol');
    const first = await world.live();
    await first.strategy.attach(target, first.save);
    await world.stopServer();
    const failure = { reason: 'no volumedriver for 3600 s', save: first.save };
    await first.strategy.fail(target, first.details ?? {}, failure);
    const again = { ...failure, reason: 'another one' };
    await first.strategy.fail(target, first.details ?? {}, again);
    const broken = { path: '/dev/nbd0', state: 'broken', reason: failure.reason };
    expect(await first.strategy.inspect(target, first.details ?? {})).toMatchObject(broken);
    expect(await first.strategy.isSuspect(target, first.details ?? {})).toBe(false);
    expect(world.model.device(0)).toMatchObject({ isBound: false, holders: 1 });
    const user = world.model.hold(0);
    await first.strategy.close();
    await world.startServer();
    const second = await world.live({ details: first.details });
    const healed = await second.strategy.heal(target, second.details ?? {}, second.save);
    expect(healed).toMatchObject(broken);
    await user.close();
    expect(world.model.device(0)).toMatchObject({ isBound: false, holders: 1, pid: 710 });
    const other = world.volume('other');
    expect((await second.strategy.attach(other, () => Promise.resolve())).path).toBe('/dev/nbd1');
    expect(world.commands).toEqual([]);
    await second.strategy.detach(target, second.details);
    expect(world.model.device(0)).toMatchObject({ holders: 0, pid: null });
    expect(world.commands).toEqual([]);
  });

  test('leaves a device alone that is not ours any more', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    world.model.disconnect(0);
    const other = world.volume('other');
    await life.strategy.attach(other, () => Promise.resolve());
    const details = life.details ?? {};
    expect(await life.strategy.inspect(target, details)).toMatchObject({
      state: 'broken',
      path: '',
    });
    expect(await life.strategy.heal(target, details, life.save)).toMatchObject({ state: 'broken' });
    await life.strategy.fail(target, details, { reason: 'gone', save: life.save });
    await life.strategy.detach(target, life.details);
    expect(world.model.bound).toEqual([0]);
    expect(world.model.liveSockets(0)).toHaveLength(1);
  });
});

describe('detaching', () => {
  test('writes what is dirty, and heals the link for it', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    await world.restartServer();
    world.beforeCommand = async () => {
      await eventually(() => world.model.liveSockets(0).length === 1, 'the link to be healed');
    };
    await life.strategy.detach(target, life.details);
    expect(world.commands).toEqual(['blockdev --flushbufs /dev/nbd0', 'sync /dev/nbd0']);
    expect(world.model.bound).toEqual([]);
    await eventually(() => world.clients === 0, 'the link to end');
  });

  test.each([
    ['a device that is read-only', { readOnly: true }, 'vol'],
    ['an export that is refused', { readOnly: false }, 'other'],
  ])('does not write: %s', async (_name, options, exported) => {
    const target = world.volume('vol', options);
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const uri = target.export.uri.replace('vol', exported);
    await life.strategy.detach({ ...target, export: { ...target.export, uri } }, life.details);
    expect(world.commands).toEqual([]);
    expect(world.model.bound).toEqual([]);
  });

  test('gives up writing in time', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    await world.stopServer();
    world.beforeCommand = () =>
      Promise.reject(new VolumeError('UNAVAILABLE', 'blockdev failed: no end after 1000 ms'));
    await life.strategy.detach(target, life.details);
    expect(world.model.bound).toEqual([]);
    await life.strategy.detach(target, life.details);
  });

  test('finds a device without a record', async () => {
    const target = world.volume('vol');
    const first = await world.live();
    await first.strategy.attach(target, first.save);
    await first.strategy.close();
    const life = await world.live();
    expect(await life.strategy.list()).toEqual([target.key]);
    await life.strategy.detach({ key: target.key, export: null }, null);
    expect(world.model.bound).toEqual([]);
    expect(await life.strategy.list()).toEqual([]);
  });

  test('leaves what others attached alone', async () => {
    const life = await world.live();
    const control = world.model.control({ hasIdentifiers: true });
    const request = {
      ...{ index: null, sizeBytes, blockSizeBytes: 512, serverFlags: 1 },
      ...{ sockets: [], deadTimeoutSeconds: 1 },
    };
    const otherInstance = `${identity.driverName}/${'b'.repeat(32)}/vol#1`;
    for (const identifier of [null, 'vol#1', otherInstance])
      await control.connect({ ...request, identifier });
    const target = world.volume('vol');
    expect(await life.strategy.list()).toEqual([]);
    await life.strategy.attach(target, life.save);
    expect(await life.strategy.list()).toEqual([target.key]);
    await life.strategy.detach(target, life.details);
    expect(world.model.bound).toEqual([0, 1, 2]);
  });
});

describe('growing', () => {
  test('shows the new size, and refuses what the export does not have', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const grow = (bytes: number): Promise<Inspection> =>
      life.strategy.resize(target, life.details ?? {}, bytes);
    expect(await grow(sizeBytes)).toEqual(attached);
    await expect(grow(sizeBytes + 1)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    world.volume('vol', { sizeBytes: 2 * sizeBytes });
    expect(await grow(sizeBytes + 1)).toEqual({ ...attached, sizeBytes: 2 * sizeBytes });
    expect(world.model.device(0).sizeBytes).toBe(2 * sizeBytes);
  });

  test('never gives a size to a device without a link', async () => {
    const target = world.volume('vol');
    const first = await world.live();
    await first.strategy.attach(target, first.save);
    world.volume('vol', { sizeBytes: 2 * sizeBytes });
    await world.restartServer();
    const grow = first.strategy.resize(target, first.details ?? {}, 2 * sizeBytes);
    await expect(grow).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(world.model.device(0).sizeBytes).toBe(sizeBytes);
    // A process that does not know the link gives it a new one first.
    await first.strategy.close();
    const life = await world.live({ details: first.details });
    await life.strategy.resize(target, life.details ?? {}, 2 * sizeBytes);
    expect(world.model.liveSockets(0)).toHaveLength(1);
    expect(world.model.device(0).sizeBytes).toBe(2 * sizeBytes);
  });
});

test('a kernel without an NBD client is named as such', async () => {
  const strategy = new KernelStrategy({
    ...{ runCommand, clock: systemClock, logger: silentLogger },
    openControl: () => Promise.reject(new VolumeError('NOT_CAPABLE', 'nbd is not loaded')),
  });
  await expect(strategy.start(identity)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
  await strategy.close();
});
