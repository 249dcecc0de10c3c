/** What a crash, a reboot, a broken device or a newer grant leaves behind, on real mounts. As root only. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  callContext,
  mebibyte,
  blockCapability,
  mountCapability,
  NodeFixture,
} from '../../test/support/node-fixture.ts';
import { describeRequires } from '../../test/support/requires.ts';
import { runCommand } from '../volumes/command.ts';
import { VolumeError } from '../volumes/errors.ts';

const needs = ['linux', 'root', 'loop', 'tool:mkfs.ext4', 'tool:mkfs.xfs'] as const;
const block = blockCapability();
const ext4 = mountCapability({ fsType: 'ext4' });
const xfs = mountCapability({ fsType: 'xfs' });
const limit = { timeoutMs: 20_000 };

let fixture: NodeFixture;

beforeEach(async () => {
  fixture = await NodeFixture.create();
});

afterEach(async () => {
  await fixture.dispose();
});

describeRequires([...needs, 'tool:xfs_io'], 'what a crash leaves behind', () => {
  test('a mount without a record is adopted', async () => {
    const volume = await fixture.volume('adopt');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await fixture.write(volume.targetPath, 'kept');
    await rm(join(fixture.directory, 'state'), { recursive: true });
    fixture.restart();
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
    expect(fixture.ran('mkfs.ext4')).toHaveLength(1);
  });

  test('after a reboot, with records and without mounts', async () => {
    const volume = await fixture.volume('reboot');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await fixture.write(volume.targetPath, 'kept');
    await runCommand('umount', [volume.targetPath], limit);
    await runCommand('umount', [volume.stagingPath], limit);
    await fixture.devices.detach(volume.id);
    fixture.restart();
    await expect(fixture.publish(volume, ext4)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
  });

  test('after a reboot, unpublish and unstage find nothing and succeed', async () => {
    const volume = await fixture.volume('reboot');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await runCommand('umount', [volume.targetPath], limit);
    await runCommand('umount', [volume.stagingPath], limit);
    await fixture.devices.detach(volume.id);
    await fixture.unpublish(volume);
    await fixture.unstage(volume);
    expect(await readdir(join(fixture.directory, 'state', 'staged'))).toEqual([]);
  });

  test.each([
    { name: 'ext4', capability: ext4 },
    { name: 'xfs', capability: xfs },
  ])('a shut-down $name is refused, then mounted again', async ({ capability }) => {
    const volume = await fixture.volume('dead', { sizeBytes: 320 * mebibyte });
    await fixture.stage(volume, capability);
    await fixture.publish(volume, capability);
    await fixture.write(volume.targetPath, 'kept');
    await runCommand('sync', ['--file-system', volume.targetPath], limit);
    await runCommand('xfs_io', ['-x', '-c', 'shutdown', volume.stagingPath], limit);
    const second = { targetPath: `${volume.targetPath}-2` };
    await expect(fixture.publish(volume, capability, second)).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
    });
    await fixture.unpublish(volume);
    await fixture.stage(volume, capability);
    await fixture.publish(volume, capability);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
  });

  test('a broken device is replaced', async () => {
    const volume = await fixture.volume('broken');
    await fixture.stage(volume, ext4);
    await fixture.write(volume.stagingPath, 'kept');
    fixture.devices.setState(volume.id, 'broken', 'fenced');
    await expect(fixture.publish(volume, ext4)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
  });

  test('a waiting device answers UNAVAILABLE and is left alone', async () => {
    const volume = await fixture.volume('waiting');
    await fixture.stage(volume, ext4);
    fixture.devices.setState(volume.id, 'waiting', 'no volumedriver');
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await fixture.mountPoints()).toHaveLength(1);
    const stats = await fixture.node.nodeGetVolumeStats(
      { volumeId: volume.id, volumePath: volume.stagingPath, stagingTargetPath: '' },
      callContext,
    );
    expect(stats.volumeCondition).toMatchObject({ abnormal: true });
  });

  test('a newer grant replaces device and mount', async () => {
    const volume = await fixture.volume('regranted');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await fixture.write(volume.targetPath, 'kept');
    await fixture.unpublish(volume);
    const before = await fixture.devices.getDevice(volume.id);
    await fixture.regrant(volume);
    await fixture.stage(volume, ext4);
    expect((await fixture.devices.getDevice(volume.id)).uri).not.toBe(before.uri);
    await fixture.publish(volume, ext4);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
    expect(await fixture.mountPoints()).toHaveLength(2);
  });

  test('a block device of an older grant stays while a pod may open it', async () => {
    const volume = await fixture.volume('regranted');
    await fixture.stage(volume, block);
    await fixture.publish(volume, block);
    await fixture.regrant(volume);
    await expect(fixture.stage(volume, block)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
    await fixture.unpublish(volume);
    await fixture.stage(volume, block);
    await fixture.publish(volume, block);
  });

  test('a mount that hangs is left behind lazily, and the device goes', async () => {
    const volume = await fixture.volume('hung');
    await fixture.stage(volume, ext4);
    fixture.beforeCommand = (command, args) =>
      command === 'umount' && !args.includes('--lazy')
        ? Promise.reject(new VolumeError('UNAVAILABLE', 'umount: no end after 5000 ms'))
        : Promise.resolve();
    await fixture.unstage(volume);
    expect(await fixture.mountPoints()).toEqual([]);
    expect(await fixture.devices.listDevices()).toEqual([]);
  });

  test.each([
    { name: 'filesystem', capability: ext4 },
    { name: 'block device', capability: block },
  ])('a $name that still writes is not unstaged by force', async ({ capability }) => {
    const volume = await fixture.volume('slow');
    await fixture.stage(volume, capability);
    const { path } = await fixture.devices.getDevice(volume.id);
    fixture.beforeCommand = async (command) => {
      if (command !== 'sync') return;
      await writeFile(path, 'progress', { flush: true });
      throw new VolumeError('UNAVAILABLE', 'sync: no end after 60000 ms');
    };
    fixture.commands.length = 0;
    await expect(fixture.unstage(volume)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(fixture.ran('umount')).toEqual([]);
    expect(await fixture.devices.listDevices()).toHaveLength(1);
    fixture.beforeCommand = () => Promise.resolve();
    await fixture.unstage(volume);
    expect(await fixture.devices.listDevices()).toEqual([]);
  });

  test.each(['UNAVAILABLE', 'INTERNAL'] as const)(
    'a device that takes nothing more (%s) is unstaged by force',
    async (code) => {
      const volume = await fixture.volume('stuck');
      await fixture.stage(volume, block);
      fixture.beforeCommand = (command) =>
        command === 'sync'
          ? Promise.reject(new VolumeError(code, 'sync: failed'))
          : Promise.resolve();
      await fixture.unstage(volume);
      expect(await fixture.devices.listDevices()).toEqual([]);
    },
  );

  test('what a block user writes after an interrupted mkfs is never formatted', async () => {
    const volume = await fixture.volume('reused');
    fixture.beforeCommand = (command) =>
      command === 'mkfs.ext4'
        ? Promise.reject(new VolumeError('UNAVAILABLE', 'died'))
        : Promise.resolve();
    await expect(fixture.stage(volume, ext4)).rejects.toThrow('died');
    expect(await fixture.info(volume)).toMatchObject({ formatting: 'ext4' });
    fixture.beforeCommand = () => Promise.resolve();
    await fixture.unstage(volume);
    await fixture.stage(volume, block);
    await fixture.unstage(volume);
    fixture.commands.length = 0;
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
    expect(fixture.ran('mkfs.ext4')).toEqual([]);
  });

  test('a target that stayed writable after a crash becomes read-only', async () => {
    const volume = await fixture.volume('halfway');
    await fixture.stage(volume, ext4);
    fixture.beforeCommand = (_command, args) => {
      if (!args.includes('remount,bind,ro')) return Promise.resolve();
      // Dies between the two steps: nothing is cleaned up.
      fixture.beforeCommand = (command) =>
        command === 'umount'
          ? Promise.reject(new VolumeError('UNAVAILABLE', 'died'))
          : Promise.resolve();
      return Promise.reject(new VolumeError('UNAVAILABLE', 'died'));
    };
    await expect(fixture.publish(volume, ext4, { readonly: true })).rejects.toThrow('died');
    expect(await fixture.mountPoints()).toHaveLength(2);
    fixture.beforeCommand = () => Promise.resolve();
    fixture.restart();
    await fixture.publish(volume, ext4, { readonly: true });
    await expect(fixture.write(volume.targetPath, 'no')).rejects.toThrow('EROFS');
    expect(await fixture.mountPoints()).toHaveLength(2);
  });

  test('what cannot be mounted leaves no device; what may go on keeps it', async () => {
    const empty = await fixture.volume('empty', { readOnly: true });
    await expect(fixture.stage(empty, ext4)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
    expect(await fixture.devices.listDevices()).toEqual([]);
    const slow = await fixture.volume('slow');
    fixture.beforeCommand = (command) =>
      command === 'mkfs.ext4'
        ? Promise.reject(new VolumeError('UNAVAILABLE', 'mkfs.ext4: no end'))
        : Promise.resolve();
    await expect(fixture.stage(slow, ext4)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await fixture.devices.listDevices()).toHaveLength(1);
    fixture.beforeCommand = () => Promise.resolve();
    await fixture.stage(slow, ext4);
  });

  test('a mount elsewhere keeps the device of a stage that fails', async () => {
    const volume = await fixture.volume('elsewhere', { sizeBytes: 320 * mebibyte });
    await fixture.stage(volume, ext4);
    const moved = { ...volume, stagingPath: `${volume.stagingPath}-2` };
    await rm(join(fixture.directory, 'state'), { recursive: true });
    await expect(fixture.stage(moved, xfs)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    expect(await fixture.devices.listDevices()).toHaveLength(1);
    await fixture.write(volume.stagingPath, 'works');
  });

  test('a target folder that holds files is never emptied', async () => {
    const volume = await fixture.volume('files');
    await mkdir(volume.targetPath);
    await writeFile(join(volume.targetPath, 'mine'), '');
    await expect(fixture.unpublish(volume)).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(await readdir(volume.targetPath)).toEqual(['mine']);
  });
});
