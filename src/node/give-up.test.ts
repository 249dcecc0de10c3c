/**
 * A volume leaves its node: at once or by force where nothing can be written any more, and never before everything is
 * written where it still can. As root.
 */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import {
  blockCapability,
  mountCapability,
  NodeFixture,
  type GrantedVolume,
} from '../../test/support/node-fixture.ts';
import { describeRequires } from '../../test/support/requires.ts';
import { VolumeError } from '../volumes/errors.ts';

const block = blockCapability();
const ext4 = mountCapability({ fsType: 'ext4' });
/** The fixture lets an unmount take 5 s. */
const unmountMs = 5_000;

let fixture: NodeFixture;
let user: ChildProcess | undefined;

beforeEach(async () => {
  fixture = await NodeFixture.create();
});

afterEach(async () => {
  user?.kill('SIGKILL');
  user = undefined;
  await fixture.dispose();
});

/** Somebody else's process that has the file open. */
async function openElsewhere(path: string): Promise<void> {
  const fd = openSync(path, 'r');
  user = spawn('sleep', ['100'], { stdio: [fd, 'ignore', 'ignore'] });
  await once(user, 'spawn');
  closeSync(fd);
}

/** Staged and published, with a process that uses the target. */
async function volumeInUse(capability: typeof ext4): Promise<GrantedVolume> {
  const volume = await fixture.volume('used');
  await fixture.stage(volume, capability);
  await fixture.publish(volume, capability);
  if (capability === ext4) await fixture.write(volume.targetPath, 'x');
  await openElsewhere(capability === ext4 ? `${volume.targetPath}/data` : volume.targetPath);
  return volume;
}

async function expectGone(volume: GrantedVolume): Promise<void> {
  await fixture.unpublish(volume);
  await fixture.unstage(volume);
  expect(await fixture.mountPoints()).toEqual([]);
  expect(await fixture.devices.listDevices()).toEqual([]);
}

describeRequires(['linux', 'root', 'loop', 'tool:mkfs.ext4'], 'a volume in use', () => {
  const kinds = [
    { name: 'filesystem', capability: ext4 },
    { name: 'block device', capability: block },
  ];

  test.each(kinds)('stays, when its device works: $name', async ({ capability }) => {
    const volume = await volumeInUse(capability);
    await expect(fixture.unpublish(volume)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
    expect(fixture.ran('umount').some(({ args }) => args.includes('--lazy'))).toBe(false);
    await endUser();
    await expectGone(volume);
  });

  test.each(kinds)('leaves at once, when its device is broken: $name', async ({ capability }) => {
    const volume = await volumeInUse(capability);
    fixture.devices.setState(volume.id, 'broken', 'given up');
    const startMs = performance.now();
    await expectGone(volume);
    expect(performance.now() - startMs).toBeLessThan(unmountMs);
  });

  test('leaves its target after some time, when its device waits', async () => {
    const volume = await volumeInUse(ext4);
    fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
    const startMs = performance.now();
    await fixture.unpublish(volume);
    expect(performance.now() - startMs).toBeGreaterThan(unmountMs);
    expect(await fixture.mountPoints()).toEqual([volume.stagingPath]);
    // Its process still writes, though nobody sees the mount: the volume stays until that ends.
    fixture.devices.setState(volume.id, 'attached', '');
    await expect(fixture.unstage(volume)).rejects.toMatchObject({
      code: 'VOLUME_IN_USE',
      message: expect.stringContaining('still in use'),
    });
    expect(await fixture.devices.listDevices()).toHaveLength(1);
    await endUser();
    await expectGone(volume);
  }, 30_000);

  test('stays, when its device waits no more', async () => {
    const volume = await volumeInUse(ext4);
    fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
    const unpublished = fixture.unpublish(volume);
    setTimeout(() => {
      fixture.devices.setState(volume.id, 'attached', '');
    }, 700);
    await expect(unpublished).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
  });

  test('leaves, when its device takes nothing and does not say why', async () => {
    const volume = await volumeInUse(ext4);
    fixture.beforeCommand = failing('sync', 'UNAVAILABLE');
    await expectGone(volume);
  });

  test('a broken device is replaced under its process', async () => {
    const volume = await volumeInUse(ext4);
    fixture.devices.setState(volume.id, 'broken', 'given up');
    await fixture.stage(volume, ext4);
    const targetPath = `${volume.targetPath}-new`;
    await fixture.publish(volume, ext4, { targetPath });
    expect(await fixture.mountPoints()).toHaveLength(3);
    await fixture.unpublish(volume);
    expect(await fixture.mountPoints()).toEqual([volume.stagingPath, targetPath]);
  });

  test('a target of a replaced device is published anew under its process', async () => {
    const volume = await volumeInUse(ext4);
    fixture.devices.setState(volume.id, 'broken', 'given up');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    expect(await fixture.mountPoints()).toHaveLength(2);
    await fixture.write(volume.targetPath, 'new');
    expect(await fixture.read(volume.stagingPath)).toBe('new');
  });

  test.each(kinds)('leaves, though its device is on no record: $name', async ({ capability }) => {
    const volume = await fixture.volume('unreadable');
    await fixture.stage(volume, capability);
    await fixture.publish(volume, capability);
    fixture.devices.getDevice = () =>
      Promise.reject(new VolumeError('CORRUPT', 'its record cannot be read'));
    await expectGone(volume);
  });

  test.each([
    ['stays, when its device is unknown and works', false, 2],
    ['leaves, when its device is unknown and takes nothing', true, 1],
  ])('%s', async (_, isDead, left) => {
    const volume = await volumeInUse(ext4);
    const known = fixture.devices.getDevice.bind(fixture.devices);
    fixture.devices.getDevice = () =>
      Promise.reject(new VolumeError('PATH_NOT_FOUND', 'no such device'));
    fixture.beforeCommand = failing('sync', isDead ? 'INTERNAL' : null);
    await fixture.unpublish(volume).catch((error: unknown) => {
      expect(error).toMatchObject({ code: 'VOLUME_IN_USE' });
    });
    expect(await fixture.mountPoints()).toHaveLength(left);
    fixture.devices.getDevice = known;
  });
});

describeRequires(['linux', 'root', 'loop', 'tool:mkfs.ext4'], 'what was written', () => {
  const kinds = [
    { name: 'filesystem', capability: ext4 },
    { name: 'block device', capability: block },
  ];

  async function waitingVolume(capability: typeof ext4): Promise<GrantedVolume> {
    const volume = await fixture.volume('waiting');
    await fixture.stage(volume, capability);
    if (capability === ext4) await fixture.write(volume.stagingPath, 'kept');
    fixture.commands.length = 0;
    fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
    return volume;
  }

  /** Nothing was cut: the same call works later. */
  async function expectWaiting(volume: GrantedVolume): Promise<void> {
    await expect(fixture.unstage(volume)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringMatching(
        /waits for the volumedriver.*still on its way.*no volumedriver/,
      ),
    });
    expect(fixture.ran('umount').some(({ args }) => args.includes('--lazy'))).toBe(false);
    expect(await fixture.devices.listDevices()).toHaveLength(1);
  }

  test.each(kinds)('keeps a waiting $name until it is written', async ({ capability }) => {
    const volume = await waitingVolume(capability);
    await expectWaiting(volume);
    expect(await fixture.mountPoints()).toHaveLength(capability === ext4 ? 1 : 0);
    fixture.devices.setState(volume.id, 'attached', '');
    await expectGone(volume);
    expect(fixture.ran('sync')).toHaveLength(1);
    await fixture.stage(volume, capability);
    if (capability === ext4) expect(await fixture.read(volume.stagingPath)).toBe('kept');
  });

  test.each([
    ['is written once it is back', 'attached', 1],
    ['is lost once it is given up', 'broken', 0],
  ] as const)('to a waiting device %s, within one call', async (_, state, syncs) => {
    const volume = await waitingVolume(ext4);
    const gone = expectGone(volume);
    setTimeout(() => {
      fixture.devices.setState(volume.id, state, 'as told');
    }, 600);
    await gone;
    expect(fixture.ran('sync')).toHaveLength(syncs);
  });

  test('is nothing on a read-only device that waits', async () => {
    const volume = await fixture.volume('read-only');
    await fixture.stage(volume, ext4);
    await fixture.unstage(volume);
    await fixture.regrant(volume, true);
    const reader = mountCapability({ fsType: 'ext4', mode: 'SINGLE_NODE_READER_ONLY' });
    await fixture.stage(volume, reader);
    fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
    const startMs = performance.now();
    await expectGone(volume);
    expect(performance.now() - startMs).toBeLessThan(unmountMs);
  });

  test.each([
    ['is being written', 'sync'],
    ['is being unmounted', 'umount'],
  ])('stays with a device that begins to wait while it %s', async (_, hanging) => {
    const volume = await waitingVolume(ext4);
    fixture.devices.setState(volume.id, 'attached', '');
    fixture.beforeCommand = async (command, args) => {
      if (command === hanging) fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
      await failing(hanging, 'UNAVAILABLE')(command, args);
    };
    await expectWaiting(volume);
    expect(await fixture.mountPoints()).toHaveLength(1);
    fixture.beforeCommand = () => Promise.resolve();
    fixture.devices.setState(volume.id, 'attached', '');
    await expectGone(volume);
  });

  test('is waited for, when a newer grant replaces a device that waits', async () => {
    const volume = await waitingVolume(ext4);
    await fixture.regrant(volume);
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await fixture.mountPoints()).toHaveLength(1);
    fixture.devices.setState(volume.id, 'broken', 'fenced');
    await fixture.stage(volume, ext4);
    expect(await fixture.read(volume.stagingPath)).toBe('kept');
  });
});

/** Null: it does not fail. */
function failing(
  wanted: string,
  code: 'UNAVAILABLE' | 'INTERNAL' | null,
): NodeFixture['beforeCommand'] {
  return (command) =>
    command === wanted && code !== null
      ? Promise.reject(new VolumeError(code, `${command}: it does not end, or fails`))
      : Promise.resolve();
}

async function endUser(): Promise<void> {
  user?.kill('SIGKILL');
  await once(user ?? fail(), 'exit');
}

function fail(): never {
  throw new Error('there is no process');
}
