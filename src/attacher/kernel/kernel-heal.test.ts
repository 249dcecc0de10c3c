import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { shutdownSocket } from '../../base/ffi-sockets.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { KernelWorld, openDescriptors } from '../../../test/support/kernel-world.ts';
import { eventually } from '../../../test/support/nbd-fixture.ts';
import type { Inspection } from '../strategy.ts';
import { MemoryStorage } from '../../../test/support/memory-device.ts';

const sizeBytes = 1024 * 1024;
const attached: Inspection = { path: '/dev/nbd0', sizeBytes, state: 'attached', reason: '' };

let world: KernelWorld;
beforeEach(async () => {
  world = await KernelWorld.open();
});
afterEach(async () => {
  await world.close();
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
    const healed = { ...attached, healed: true };
    expect(await life.strategy.heal(target, life.details ?? {}, life.save)).toEqual(healed);
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
    expect(await heal()).toMatchObject(attached);
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
    expect(await heal()).toMatchObject(attached);
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
    expect(await heal()).toMatchObject(attached);
    expect(world.model.liveSockets(0).length).toBeGreaterThan(0);
  });

  test('keeps what works when an event comes late', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const sockets = world.model.liveSockets(0);
    world.model.tellLinkDead(0);
    expect(await life.strategy.heal(target, life.details ?? {}, life.save)).toMatchObject(attached);
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
    expect(await life.strategy.heal(target, life.details ?? {}, life.save)).toMatchObject(attached);
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
    expect(await heal()).toMatchObject(attached);
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
    expect(await heal()).toMatchObject(attached);
    expect(world.model.liveSockets(0)).toHaveLength(1);
  });
});
