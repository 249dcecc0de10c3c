import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
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

  test.each([
    ['a kernel that tells what is connected', false],
    ['one that does not', true],
  ])('leaves an index alone that somebody holds open, on %s', async (_name, forgetsEnds) => {
    world.model.forgetsEnds = forgetsEnds;
    const life = await world.live();
    const target = world.volume('vol');
    await life.strategy.attach(target, life.save);
    const user = world.model.hold(0);
    await life.strategy.detach(target, life.details, life.save);
    expect(await life.strategy.list()).toEqual([]);
    const again = await life.strategy.attach(target, life.save);
    expect(again.path).toBe('/dev/nbd1');
    expect(await life.strategy.list()).toEqual([target.key]);
    await life.strategy.detach(target, life.details, life.save);
    await user.close();
    expect(world.model.devices.map(({ pid }) => pid)).toEqual([null, null]);
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
    expect(world.model.device(0)).toMatchObject({ isBound: false, holders: 1 });
    const other = world.volume('other');
    expect((await second.strategy.attach(other, () => Promise.resolve())).path).toBe('/dev/nbd1');
    expect(world.commands).toEqual([]);
    await second.strategy.detach(target, second.details, second.save);
    expect(world.model.device(0)).toMatchObject({ holders: 0, pid: null });
    expect(world.commands).toEqual([]);
  });

  test('writes nothing to a device whose I/O fails', async () => {
    world.model.forgetsEnds = true;
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const user = world.model.hold(0);
    await life.strategy.fail(target, life.details ?? {}, { reason: 'lost', save: life.save });
    await life.strategy.detach(target, life.details, life.save);
    expect(world.commands).toEqual([]);
    await user.close();
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
    await life.strategy.detach(target, life.details, life.save);
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
    await life.strategy.detach(target, life.details, life.save);
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
    const elsewhere = { ...target, export: { ...target.export, uri } };
    await life.strategy.detach(elsewhere, life.details, life.save);
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
    await life.strategy.detach(target, life.details, life.save);
    expect(world.model.bound).toEqual([]);
    await life.strategy.detach(target, life.details, life.save);
  });

  test('finds a device without a record', async () => {
    const target = world.volume('vol');
    const first = await world.live();
    await first.strategy.attach(target, first.save);
    await first.strategy.close();
    const life = await world.live();
    expect(await life.strategy.list()).toEqual([target.key]);
    await life.strategy.detach({ key: target.key, export: null }, null, life.save);
    expect(world.model.bound).toEqual([]);
    expect(await life.strategy.list()).toEqual([]);
  });

  test('waits for an order that made a device late', async () => {
    const target = world.volume('vol');
    let isStuck = true;
    const life = await world.live({
      openControl: () => {
        const control = world.model.control({ hasIdentifiers: true });
        let late: (() => Promise<unknown>) | null = null;
        return Promise.resolve({
          ...control,
          connect: (request) => {
            late = () => control.connect(request);
            return Promise.reject(new VolumeError('UNAVAILABLE', 'connect: no answer'));
          },
          status: async () => {
            if (isStuck) throw new VolumeError('UNAVAILABLE', 'list the devices: no answer');
            await late?.();
            return await control.status();
          },
        });
      },
    });
    const attaching = life.strategy.attach(target, life.save);
    await expect(attaching).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const detach = (): Promise<void> => life.strategy.detach(target, life.details, life.save);
    await expect(detach()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    isStuck = false;
    await detach();
    expect(world.model.devices).toHaveLength(1);
    expect(world.model.bound).toEqual([]);
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
    await life.strategy.detach(target, life.details, life.save);
    expect(world.model.bound).toEqual([0, 1, 2]);
  });
});

describe('growing', () => {
  test('shows the new size, and refuses what the export does not have', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    await life.strategy.attach(target, life.save);
    const grow = (bytes: number): Promise<Inspection> =>
      life.strategy.resize(target, life.details ?? {}, { sizeBytes: bytes, save: life.save });
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
    const grow = first.strategy.resize(target, first.details ?? {}, {
      sizeBytes: 2 * sizeBytes,
      save: first.save,
    });
    await expect(grow).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(world.model.device(0).sizeBytes).toBe(sizeBytes);
    // A process that does not know the link gives it a new one first.
    await first.strategy.close();
    const life = await world.live({ details: first.details });
    await life.strategy.resize(target, life.details ?? {}, {
      sizeBytes: 2 * sizeBytes,
      save: life.save,
    });
    expect(world.model.liveSockets(0)).toHaveLength(1);
    expect(world.model.device(0).sizeBytes).toBe(2 * sizeBytes);
  });
});

describe('on a kernel without identifiers', () => {
  beforeEach(async () => {
    await world.close();
    world = await KernelWorld.open({ hasIdentifiers: false });
  });

  test('a device is on record before it exists', async () => {
    const target = world.volume('vol');
    const life = await world.live();
    const saved: unknown[] = [];
    await life.strategy.attach(target, (details) => {
      saved.push([details['index'], details['connectorPid'], world.model.bound]);
      return Promise.resolve();
    });
    expect(saved).toEqual([
      [0, null, []],
      [0, 710, [0]],
    ]);
  });

  test('devices get their indexes side by side', async () => {
    const life = await world.live();
    world.model.hold(1);
    const targets = ['a', 'b', 'c', 'd'].map((name) => world.volume(name));
    const devices = await Promise.all(
      targets.map((target) => life.strategy.attach(target, () => Promise.resolve())),
    );
    expect(devices.map(({ path }) => path).sort()).toEqual(
      [0, 2, 3, 4].map((index) => `/dev/nbd${index}`),
    );
  });

  test.each([
    ['by the same process', false],
    ['while it was away', true],
  ])('a device is not ours whose index another volume got %s', async (_name, restarts) => {
    const target = world.volume('vol');
    const first = await world.live();
    await first.strategy.attach(target, first.save);
    const { details } = first;
    if (restarts) await first.strategy.close();
    world.model.disconnect(0);
    // Connected by a thread of the same number.
    const other = restarts ? await world.live() : first;
    await other.strategy.attach(world.volume('other'), () => Promise.resolve());
    const life = restarts ? await world.live({ details }) : first;
    const inspection = await life.strategy.inspect(target, details ?? {});
    expect(inspection).toMatchObject({ state: 'broken', path: '' });
    await life.strategy.fail(target, details ?? {}, { reason: 'gone', save: life.save });
    await life.strategy.detach(target, details, life.save);
    expect(world.model.liveSockets(0)).toHaveLength(1);
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
