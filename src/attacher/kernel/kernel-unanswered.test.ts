/** Commands to the kernel whose answer does not come, and a record that cannot be written. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { VolumeError } from '../../volumes/errors.ts';
import { KernelWorld, openDescriptors } from '../../../test/support/kernel-world.ts';
import type { Inspection } from '../strategy.ts';
import type { NbdControl, NbdReconfigureRequest } from './netlink/nbd-netlink.ts';

type Life = Awaited<ReturnType<KernelWorld['live']>>;

let world: KernelWorld;
beforeEach(async () => {
  world = await KernelWorld.open();
});
afterEach(async () => {
  await world.close();
});

/** A process whose RECONFIGUREs with sockets go through `reconfigure`. */
async function liveWith(
  reconfigure: (request: NbdReconfigureRequest, control: NbdControl) => Promise<void>,
): Promise<Life> {
  return await world.live({
    openControl: () => {
      const control = world.model.control({ hasIdentifiers: true });
      return Promise.resolve({
        ...control,
        reconfigure: (request) =>
          request.sockets === undefined
            ? control.reconfigure(request)
            : reconfigure(request, control),
      });
    },
  });
}

async function healTimes(life: Life, count: number): Promise<Inspection[]> {
  const found: Inspection[] = [];
  for (let i = 0; i < count; i++)
    found.push(await life.strategy.heal(world.volume('vol'), life.details ?? {}, life.save));
  return found;
}

test('a new link that the kernel takes after we gave up waiting is found', async () => {
  let late: (() => Promise<void>) | null = null;
  const life = await liveWith((request, control) => {
    if (late !== null) return control.reconfigure(request);
    late = () => control.reconfigure(request);
    return Promise.reject(new VolumeError('UNAVAILABLE', 'reconfigure: no answer'));
  });
  await life.strategy.attach(world.volume('vol'), life.save);
  await world.restartServer();
  expect(await healTimes(life, 1)).toMatchObject([{ state: 'waiting' }]);
  await (late as (() => Promise<void>) | null)?.();
  expect((await healTimes(life, 4)).at(-1)).toMatchObject({ state: 'attached' });
  expect(world.model.liveSockets(0)).toHaveLength(1);
});

test('a new link whose answer was lost is found', async () => {
  let isLost = true;
  const life = await liveWith(async (request, control) => {
    await control.reconfigure(request);
    if (!isLost) return;
    isLost = false;
    throw new VolumeError('INTERNAL', 'reconfigure nbd0: receive from the kernel: ENOBUFS');
  });
  await life.strategy.attach(world.volume('vol'), life.save);
  await world.restartServer();
  expect((await healTimes(life, 4)).at(-1)).toMatchObject({ state: 'attached' });
  expect(world.model.liveSockets(0)).toHaveLength(1);
});

test('a kernel that does not answer for long costs no descriptors and connections', async () => {
  let unanswered = 20;
  const life = await liveWith((request, control) => {
    if (unanswered === 0) return control.reconfigure(request);
    unanswered -= 1;
    return Promise.reject(new VolumeError('UNAVAILABLE', 'reconfigure: no answer'));
  });
  await life.strategy.attach(world.volume('vol'), life.save);
  const before = openDescriptors();
  await world.restartServer();
  await healTimes(life, 20);
  // Each side of a connection or two.
  expect(openDescriptors() - before).toBeLessThan(6);
  expect((await healTimes(life, 3)).at(-1)).toMatchObject({ state: 'attached' });
  expect(openDescriptors() - before).toBeLessThan(6);
  expect(life.details?.['sockets']).toEqual(world.model.liveSockets(0));
});

test('a record that cannot be written keeps a device neither from healing nor from its end', async () => {
  const target = world.volume('vol');
  const life = await world.live();
  await life.strategy.attach(target, life.save);
  await world.restartServer();
  const full = (): Promise<void> => Promise.reject(new Error('ENOSPC'));
  const details = life.details ?? {};
  expect(await life.strategy.heal(target, details, full)).toMatchObject({ state: 'attached' });
  expect(world.model.liveSockets(0)).toHaveLength(1);
  await life.strategy.fail(target, details, { reason: 'over', save: full });
  expect(world.model.bound).toEqual([]);
});

test('a timer that the kernel does not set holds nothing up', async () => {
  const target = world.volume('vol');
  const first = await world.live();
  await first.strategy.attach(target, first.save);
  await first.strategy.close();
  world.model.device(0).ioTimeoutMs = 30_000;
  world.model.holdsUpTimers = true;
  await world.restartServer();
  const life = await world.live({ details: first.details });
  expect((await healTimes(life, 1)).at(0)).toMatchObject({ state: 'attached', healed: true });
  expect(world.model.liveSockets(0)).toHaveLength(1);
  // The next repair tries again.
  world.model.holdsUpTimers = false;
  await world.restartServer();
  await healTimes(life, 1);
  expect(world.model.device(0).ioTimeoutMs).toBe(2000);
});

test('a link that may still work although no new one is accepted is known by what it answers', async () => {
  const target = world.volume('vol');
  const first = await world.live();
  await first.strategy.attach(target, first.save);
  await first.strategy.close();
  await world.stopServer();
  const life = await world.live({ details: first.details });
  const states = (): Promise<string[]> =>
    healTimes(life, 1).then((found) => found.map(({ state }) => state));
  expect(await states()).toEqual(['waiting']);
  world.model.device(0).completed += 10;
  expect(await states()).toEqual(['attached']);
  expect(await states()).toEqual(['waiting']);
});

test('a detach that another process repeats does not revive what is disconnected', async () => {
  world.model.forgetsEnds = true;
  const target = world.volume('vol');
  const first = await world.live();
  await first.strategy.attach(target, first.save);
  const user = world.model.hold(0);
  await first.strategy.detach(target, first.details, first.save);
  await first.strategy.close();
  expect(world.model.device(0).isBound).toBe(false);
  let relinked = 0;
  world.beforeCommand = () => new Promise((resolve) => setTimeout(resolve, 400));
  const next = await world.live({
    details: first.details,
    openControl: () => {
      const control = world.model.control({ hasIdentifiers: true });
      return Promise.resolve({
        ...control,
        reconfigure: (request) => {
          if (request.sockets !== undefined) relinked += 1;
          return control.reconfigure(request);
        },
      });
    },
  });
  await next.strategy.detach(target, next.details, next.save);
  expect(relinked).toBe(0);
  await user.close();
});

test('a link that a resize makes is on record', async () => {
  await world.close();
  world = await KernelWorld.open({ hasIdentifiers: false });
  const target = world.volume('vol');
  const first = await world.live();
  await first.strategy.attach(target, first.save);
  await first.strategy.close();
  await world.stopServer();
  world.volume('vol', { sizeBytes: 2 ** 21 });
  await world.startServer();
  // Nobody has looked at the link of the earlier process yet.
  const second = await world.live({ details: first.details });
  const growth = { sizeBytes: 2 ** 21, save: second.save };
  await second.strategy.resize(target, second.details ?? {}, growth);
  await second.strategy.close();
  const third = await world.live({ details: second.details });
  const inspection = await third.strategy.inspect(target, third.details ?? {});
  expect(inspection).toMatchObject({ state: 'attached' });
  await third.strategy.detach(target, third.details, third.save);
  expect(world.model.bound).toEqual([]);
});
