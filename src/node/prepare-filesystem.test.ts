/** What may be formatted, and what a clone or a grown volume becomes, on real filesystems. As root only. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { readFile, writeFile } from 'node:fs/promises';
import {
  blockCapability,
  callContext,
  mebibyte,
  mountCapability,
  NodeFixture,
} from '../../test/support/node-fixture.ts';
import { describeRequires } from '../../test/support/requires.ts';
import { runCommand } from '../volumes/command.ts';
import { VolumeError } from '../volumes/errors.ts';

const needs = ['linux', 'root', 'loop', 'tool:mkfs.ext4', 'tool:mkfs.xfs'] as const;
const ext4 = mountCapability({ fsType: 'ext4' });
const xfs = mountCapability({ fsType: 'xfs' });
const anyFilesystem = mountCapability();
const block = blockCapability();
const limit = { timeoutMs: 20_000 };

let fixture: NodeFixture;

beforeEach(async () => {
  fixture = await NodeFixture.create();
});

afterEach(async () => {
  await fixture.dispose();
});

describeRequires(needs, 'formatting', () => {
  test('sets the mark before mkfs and clears it before the first mount', async () => {
    const volume = await fixture.volume('mark');
    const marks: (string | null)[] = [];
    fixture.beforeCommand = async (command) => {
      if (command === 'mkfs.ext4' || command === 'mount')
        marks.push((await fixture.info(volume)).formatting);
    };
    await fixture.stage(volume, ext4);
    expect(marks).toEqual(['ext4', null]);
    expect(await fixture.info(volume)).toMatchObject({ written: true, formatting: null });
  });

  test('an interrupted mkfs starts over', async () => {
    const volume = await fixture.volume('interrupted');
    fixture.beforeCommand = async (command, args) => {
      if (command !== 'mkfs.ext4') return;
      fixture.beforeCommand = () => Promise.resolve();
      const device = String(args.at(-1));
      await runCommand('mkfs.xfs', ['-f', '-q', device], limit).catch(() => undefined);
      await runCommand('dd', ['if=/dev/urandom', `of=${device}`, 'bs=64k', 'count=16'], limit);
      fixture.volumes.markWritten(volume.id);
      throw new VolumeError('UNAVAILABLE', 'mkfs: killed');
    };
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await fixture.info(volume)).toMatchObject({ written: true, formatting: 'ext4' });
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    expect(await fixture.info(volume)).toMatchObject({ formatting: null });
  });

  test('a written volume without a filesystem is refused and left alone', async () => {
    const volume = await fixture.volume('raw');
    await fixture.stage(volume, block);
    const { path } = await fixture.devices.getDevice(volume.id);
    await writeFile(path, Buffer.alloc(mebibyte, 7));
    await fixture.unstage(volume);
    fixture.volumes.markWritten(volume.id);
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message: expect.stringContaining('never formatted'),
    });
    expect(fixture.ran('mkfs.ext4')).toEqual([]);
    await fixture.stage(volume, block);
    const device = await fixture.devices.getDevice(volume.id);
    expect((await readFile(device.path)).subarray(0, mebibyte)).toEqual(Buffer.alloc(mebibyte, 7));
  });

  test('a failing probe is an error, not a blank volume', async () => {
    const volume = await fixture.volume('probe');
    await fixture.stage(volume, ext4);
    await fixture.unstage(volume);
    fixture.beforeCommand = (command) =>
      command === 'blkid'
        ? Promise.reject(new VolumeError('INTERNAL', 'blkid failed'))
        : Promise.resolve();
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(fixture.ran('mkfs.ext4')).toHaveLength(1);
  });

  test('ext4 damage beyond a safe repair is reported, and nothing is changed', async () => {
    const volume = await fixture.volume('damaged');
    await fixture.stage(volume, ext4);
    await fixture.unstage(volume);
    await fixture.stage(volume, block);
    const { path } = await fixture.devices.getDevice(volume.id);
    for (const command of ['clri <2>', 'set_super_value state 2']) {
      await runCommand('debugfs', ['-w', '-R', command, path], limit);
    }
    await fixture.unstage(volume);
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining('e2fsck'),
    });
    expect(await fixture.mountPoints()).toEqual([]);
    expect(fixture.ran('mkfs.ext4')).toHaveLength(1);
  });

  test('another filesystem than the one on the volume is refused', async () => {
    const volume = await fixture.volume('wrong', { sizeBytes: 320 * mebibyte });
    await fixture.stage(volume, xfs);
    await fixture.unstage(volume);
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message: expect.stringContaining('it holds xfs'),
    });
    await fixture.stage(volume, anyFilesystem);
  });

  test('xfs on a small volume says how much it needs, before the mark is set', async () => {
    const volume = await fixture.volume('small');
    await expect(fixture.stage(volume, xfs)).rejects.toMatchObject({
      code: 'OUT_OF_RANGE',
      message: expect.stringContaining('314572800'),
    });
    expect((await fixture.info(volume)).formatting).toBeNull();
  });

  test('the smallest volume takes ext4', async () => {
    const volume = await fixture.volume('smallest', { sizeBytes: mebibyte });
    await fixture.stage(volume, ext4);
    await fixture.publish(volume, ext4);
    await fixture.write(volume.targetPath, 'fits');
  });

  test('an unformatted volume that is published read-only is refused', async () => {
    const volume = await fixture.volume('readonly', { readOnly: true });
    await expect(fixture.stage(volume, ext4)).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message: expect.stringContaining('read-only'),
    });
  });

  test('an older grant neither attaches nor formats', async () => {
    const volume = await fixture.volume('fenced');
    const old = volume.generation;
    await fixture.regrant(volume);
    await expect(fixture.stage({ ...volume, generation: old }, ext4)).rejects.toMatchObject({
      code: 'FENCED',
    });
    expect(await fixture.devices.listDevices()).toEqual([]);
  });
});

describeRequires(needs, 'clones, restores and growth', () => {
  test.each([
    { name: 'ext4', capability: ext4 },
    { name: 'xfs', capability: xfs },
  ])('a larger clone of $name mounts beside its source and fills its device', async (row) => {
    const source = await fixture.volume('source', { sizeBytes: 320 * mebibyte });
    await fixture.stage(source, row.capability);
    await fixture.write(source.stagingPath, 'cloned');
    await runCommand('sync', ['--file-system', source.stagingPath], limit);
    const clone = await fixture.volume('clone', {
      sizeBytes: 640 * mebibyte,
      source: { kind: 'volume', volumeId: source.id },
    });
    await fixture.stage(clone, row.capability);
    expect(await fixture.read(clone.stagingPath)).toBe('cloned');
    await fixture.publish(clone, row.capability);
    const stats = await fixture.node.nodeGetVolumeStats(
      { volumeId: clone.id, volumePath: clone.targetPath, stagingTargetPath: '' },
      callContext,
    );
    expect(stats.volumeCondition?.abnormal).toBe(false);
    expect(stats.usage[0]?.total).toBeGreaterThan(500 * mebibyte);
    expect(stats.usage[1]?.total).toBeGreaterThan(0);
  });

  test('a read-only clone of a filesystem in use mounts without its journal', async () => {
    const source = await fixture.volume('source');
    await fixture.stage(source, ext4);
    await fixture.write(source.stagingPath, 'cloned');
    await runCommand('sync', ['--file-system', source.stagingPath], limit);
    const clone = await fixture.volume('clone', {
      readOnly: true,
      source: { kind: 'volume', volumeId: source.id },
    });
    const reader = mountCapability({ fsType: 'ext4', mode: 'SINGLE_NODE_READER_ONLY' });
    await fixture.stage(clone, reader);
    await fixture.publish(clone, reader);
    for (const _ of [1, 2]) await fixture.publish(clone, reader);
    await expect(fixture.write(clone.targetPath, 'no')).rejects.toThrow('EROFS');
  });

  test('xfs grows while it is mounted; twice is once', async () => {
    const volume = await fixture.volume('grow', { sizeBytes: 320 * mebibyte });
    await fixture.stage(volume, xfs);
    await fixture.publish(volume, xfs);
    await fixture.volumes.growVolume(volume.id, 640 * mebibyte);
    for (const _ of [1, 2]) {
      const grown = await fixture.node.nodeExpandVolume(
        {
          volumeId: volume.id,
          volumePath: volume.targetPath,
          capacityRange: { requiredBytes: 640 * mebibyte, limitBytes: 0 },
          stagingTargetPath: volume.stagingPath,
          volumeCapability: xfs,
          secrets: {},
        },
        callContext,
      );
      expect(grown.capacityBytes).toBe(640 * mebibyte);
    }
    expect(fixture.ran('xfs_growfs').filter(({ args }) => args.includes('-d'))).toHaveLength(1);
  });

  test('ext4 grows while mounted, or says which capability is missing', async () => {
    const volume = await fixture.volume('grow');
    await fixture.stage(volume, ext4);
    await fixture.volumes.growVolume(volume.id, 256 * mebibyte);
    const expand = {
      volumeId: volume.id,
      volumePath: volume.stagingPath,
      capacityRange: undefined,
      stagingTargetPath: '',
      volumeCapability: ext4,
      secrets: {},
    };
    const status = await readFile('/proc/self/status', 'utf8');
    const effective = BigInt(`0x${/^CapEff:\s+(\w+)$/m.exec(status)?.[1] ?? '0'}`);
    const mayResize = ((effective >> 24n) & 1n) === 1n;
    const expanding = fixture.node.nodeExpandVolume(expand, callContext);
    if (mayResize) {
      expect(await expanding).toEqual({ capacityBytes: 256 * mebibyte });
    } else {
      await expect(expanding).rejects.toMatchObject({
        code: 'VOLUME_IN_USE',
        message: expect.stringContaining('CAP_SYS_RESOURCE'),
      });
      await fixture.unstage(volume);
      await fixture.stage(volume, ext4);
      expect(await fixture.node.nodeExpandVolume(expand, callContext)).toEqual({
        capacityBytes: 256 * mebibyte,
      });
    }
  });

  test('a block volume shows its new size', async () => {
    const volume = await fixture.volume('grow');
    await fixture.stage(volume, block);
    await fixture.publish(volume, block);
    await fixture.volumes.growVolume(volume.id, 128 * mebibyte);
    const request = {
      volumeId: volume.id,
      volumePath: volume.targetPath,
      capacityRange: { requiredBytes: 128 * mebibyte, limitBytes: 0 },
      stagingTargetPath: '',
      volumeCapability: block,
      secrets: {},
    };
    await fixture.node.nodeExpandVolume(request, callContext);
    const stats = await fixture.node.nodeGetVolumeStats(request, callContext);
    expect(stats.usage).toMatchObject([{ total: 128 * mebibyte }]);
  });
});
