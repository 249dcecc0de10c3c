/** A mount that a process uses, on a device that does not serve it: the volume leaves the node all the same. As root. */
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
    user?.kill('SIGKILL');
    await once(user ?? fail(), 'exit');
    await expectGone(volume);
  });

  test.each(kinds)('leaves at once, when its device is broken: $name', async ({ capability }) => {
    const volume = await volumeInUse(capability);
    fixture.devices.setState(volume.id, 'broken', 'given up');
    const startMs = performance.now();
    await expectGone(volume);
    expect(performance.now() - startMs).toBeLessThan(unmountMs);
  });

  test('leaves after some time, when its device waits', async () => {
    const volume = await volumeInUse(ext4);
    fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
    const startMs = performance.now();
    await expectGone(volume);
    expect(performance.now() - startMs).toBeGreaterThan(unmountMs);
  }, 20_000);

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
    fixture.beforeCommand = (command) =>
      command === 'sync'
        ? Promise.reject(new VolumeError('UNAVAILABLE', 'sync: no end after 60000 ms'))
        : Promise.resolve();
    await expectGone(volume);
  });

  test('a broken device is replaced under its process', async () => {
    const volume = await fixture.volume('replaced');
    await fixture.stage(volume, ext4);
    await fixture.write(volume.stagingPath, 'kept');
    await openElsewhere(`${volume.stagingPath}/data`);
    fixture.devices.setState(volume.id, 'broken', 'given up');
    await fixture.stage(volume, ext4);
    expect(await fixture.mountPoints()).toHaveLength(1);
  });
});

function fail(): never {
  throw new Error('there is no process');
}
