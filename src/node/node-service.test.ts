/** The node service's RPCs on real filesystems: loop devices, mkfs, mounts. As root only. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  blockCapability,
  callContext,
  mebibyte,
  mountCapability,
  NodeFixture,
} from '../../test/support/node-fixture.ts';
import { describeRequires } from '../../test/support/requires.ts';
import { VolumeError } from '../volumes/errors.ts';

const needs = ['linux', 'root', 'loop', 'tool:mkfs.ext4', 'tool:mkfs.xfs'] as const;
const ext4 = mountCapability({ fsType: 'ext4' });
const xfs = mountCapability({ fsType: 'xfs' });
const anyFilesystem = mountCapability();
const block = blockCapability();

let fixture: NodeFixture;

beforeEach(async () => {
  fixture = await NodeFixture.create();
});

afterEach(async () => {
  await fixture.dispose();
});

describeRequires(needs, 'life of a volume', () => {
  test.each([
    { name: 'ext4', capability: ext4, sizeBytes: 64 * mebibyte },
    { name: 'xfs', capability: xfs, sizeBytes: 320 * mebibyte },
    { name: 'nothing named', capability: anyFilesystem, sizeBytes: 64 * mebibyte },
  ])('mount: $name; every call twice', async ({ capability, sizeBytes }) => {
    const volume = await fixture.volume('life', { sizeBytes });
    for (const _ of [1, 2]) await fixture.stage(volume, capability);
    for (const _ of [1, 2]) await fixture.publish(volume, capability);
    await fixture.write(volume.targetPath, 'kept');
    for (const _ of [1, 2]) await fixture.unpublish(volume);
    await expect(stat(volume.targetPath)).rejects.toThrow('ENOENT');
    for (const _ of [1, 2]) await fixture.unstage(volume);
    expect(await fixture.mountPoints()).toEqual([]);
    expect(await fixture.devices.listDevices()).toEqual([]);

    await fixture.stage(volume, capability);
    await fixture.publish(volume, capability);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
    expect(fixture.ran('mkfs.ext4').length + fixture.ran('mkfs.xfs').length).toBe(1);
  });

  test('block: the device appears as a file; every call twice', async () => {
    const volume = await fixture.volume('life');
    for (const _ of [1, 2]) await fixture.stage(volume, block);
    for (const _ of [1, 2]) await fixture.publish(volume, block);
    expect((await stat(volume.targetPath)).isBlockDevice()).toBe(true);
    const { path } = await fixture.devices.getDevice(volume.id);
    expect((await stat(volume.targetPath)).rdev).toBe((await stat(path)).rdev);
    for (const _ of [1, 2]) await fixture.unpublish(volume);
    await expect(stat(volume.targetPath)).rejects.toThrow('ENOENT');
    for (const _ of [1, 2]) await fixture.unstage(volume);
    expect(await fixture.mountPoints()).toEqual([]);
    expect(await fixture.devices.listDevices()).toEqual([]);
  });

  test('all of it again after the node role restarted at each step', async () => {
    const volume = await fixture.volume('restarts');
    await fixture.stage(volume, ext4);
    fixture.restart();
    await fixture.stage(volume, ext4);
    fixture.restart();
    await fixture.publish(volume, ext4);
    fixture.restart();
    await fixture.publish(volume, ext4);
    expect(await fixture.mountPoints()).toHaveLength(2);
    fixture.restart();
    await fixture.unpublish(volume);
    fixture.restart();
    await fixture.unstage(volume);
    expect(await fixture.mountPoints()).toEqual([]);
  });

  test('unstage syncs the volume, and goes on when the volumedriver does not answer', async () => {
    const volume = await fixture.volume('sync');
    await fixture.stage(volume, ext4);
    fixture.volumes.failNext('syncVolume', new VolumeError('UNAVAILABLE', 'sync: gone'));
    await fixture.unstage(volume);
    expect(await fixture.devices.listDevices()).toEqual([]);
  });

  test('unstage works without the record', async () => {
    const volume = await fixture.volume('lost');
    await fixture.stage(volume, ext4);
    await rm(join(fixture.directory, 'state'), { recursive: true });
    fixture.restart();
    await fixture.unstage(volume);
    expect(await fixture.mountPoints()).toEqual([]);
    expect(await fixture.devices.listDevices()).toEqual([]);
  });

  test('unstage is refused while a target is mounted', async () => {
    const volume = await fixture.volume('order');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await expect(fixture.unstage(volume)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
    expect(await fixture.mountPoints()).toHaveLength(2);
  });

  test('unstage is refused while a process works there, and succeeds afterwards', async () => {
    const volume = await fixture.volume('busy');
    await fixture.stage(volume, ext4);
    await fixture.write(volume.stagingPath, 'x');
    const { open } = await import('node:fs/promises');
    const file = await open(join(volume.stagingPath, 'data'));
    try {
      await expect(fixture.unstage(volume)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
    } finally {
      await file.close();
    }
    await fixture.unstage(volume);
  });
});

describeRequires(needs, 'repeated with other arguments', () => {
  test('stage: another capability, path or access type', async () => {
    const volume = await fixture.volume('stage');
    await fixture.stage(volume, ext4);
    for (const capability of [
      block,
      anyFilesystem,
      mountCapability({ fsType: 'ext4', mountFlags: ['noatime'] }),
    ]) {
      await expect(fixture.stage(volume, capability)).rejects.toMatchObject({
        code: 'ALREADY_EXISTS',
      });
    }
    const elsewhere = { ...volume, stagingPath: join(fixture.directory, 'other') };
    await expect(fixture.stage(elsewhere, ext4)).rejects.toMatchObject({ code: 'VOLUME_IN_USE' });
  });

  test('publish: read-only or not', async () => {
    const volume = await fixture.volume('publish');
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await expect(fixture.publish(volume, ext4, { readonly: true })).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
    });
  });

  const rows = [
    { mode: 'SINGLE_NODE_MULTI_WRITER', second: undefined },
    { mode: 'SINGLE_NODE_SINGLE_WRITER', second: 'VOLUME_IN_USE' },
    { mode: 'SINGLE_NODE_WRITER', second: 'VOLUME_IN_USE' },
  ] as const;
  test.each(rows)('publish: a second path under $mode', async ({ mode, second }) => {
    const capability = mountCapability({ fsType: 'ext4', mode });
    const volume = await fixture.volume('targets');
    const other = { targetPath: `${volume.targetPath}-2` };
    await fixture.stage(volume, capability);
    await fixture.publish(volume, capability);
    if (second === undefined) {
      await fixture.publish(volume, capability, other);
      await fixture.write(volume.targetPath, 'shared');
      expect(await fixture.read(other.targetPath)).toBe('shared');
      return;
    }
    await expect(fixture.publish(volume, capability, other)).rejects.toMatchObject({
      code: second,
    });
    await fixture.unpublish(volume);
    await fixture.publish(volume, capability, other);
  });

  test('publish read-only beside a writable one', async () => {
    const volume = await fixture.volume('mixed');
    const other = `${volume.targetPath}-ro`;
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    for (const _ of [1, 2])
      await fixture.publish(volume, ext4, { targetPath: other, readonly: true });
    await fixture.write(volume.targetPath, 'written');
    expect(await fixture.read(other)).toBe('written');
    await expect(fixture.write(other, 'no')).rejects.toThrow('EROFS');
  });

  test('a block volume is not published read-only by halves', async () => {
    const volume = await fixture.volume('block');
    await fixture.stage(volume, block);
    await expect(fixture.publish(volume, block, { readonly: true })).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
    });
  });
});

describeRequires(needs, 'at the same time', () => {
  test('a second change of the volume is refused; reads and other volumes go on', async () => {
    const volume = await fixture.volume('slow');
    const other = await fixture.volume('other');
    await fixture.stage(volume, ext4);
    await fixture.unstage(volume);
    let release: () => void = () => undefined;
    const reached = new Promise<void>((resolve) => {
      const gate = new Promise<void>((open) => {
        release = open;
      });
      fixture.beforeCommand = async (command, args) => {
        if (command !== 'mount' || !args.includes(volume.stagingPath)) return;
        resolve();
        await gate;
      };
    });
    const staging = fixture.stage(volume, ext4);
    await reached;
    const pending = { code: 'OPERATION_PENDING' };
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject(pending);
    await expect(fixture.publish(volume, ext4)).rejects.toMatchObject(pending);
    await expect(fixture.unstage(volume)).rejects.toMatchObject(pending);
    await fixture.stage(other, ext4);
    await fixture.node.nodeGetVolumeStats(
      { volumeId: other.id, volumePath: other.stagingPath, stagingTargetPath: '' },
      callContext,
    );
    release();
    await staging;
  });

  test('mount flags reach mount and no error message', async () => {
    const secret = 'journal_path=hunter2';
    const volume = await fixture.volume('flags');
    const capability = mountCapability({ fsType: 'ext4', mountFlags: ['noatime', secret] });
    const failure = await fixture.stage(volume, capability).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'INTERNAL' });
    expect(JSON.stringify([String(failure), (failure as VolumeError).cause ?? ''])).not.toContain(
      'hunter2',
    );
    const [mount] = fixture.ran('mount');
    expect(mount?.args.join(' ')).toContain(`noatime,${secret}`);
    const records = join(fixture.directory, 'state', 'staged');
    const names = await readdir(records).catch(() => []);
    for (const name of names) {
      expect(await readFile(join(records, name), 'utf8')).not.toContain('hunter2');
    }
  });
});
