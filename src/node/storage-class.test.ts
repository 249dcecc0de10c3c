/** What a storage class, a claim or a pod may ask of a node beyond a plain volume, on real mounts. As root only. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { chmod, chown, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  NodeServiceCapability_RPC_Type as Rpc,
  type NodeGetVolumeHealthResponse,
} from '../api/generated/csi.ts';
import {
  blockCapability,
  callContext,
  mountCapability,
  NodeFixture,
  type GrantedVolume,
} from '../../test/support/node-fixture.ts';
import { describeRequires } from '../../test/support/requires.ts';
import { VolumeError } from '../volumes/errors.ts';
import { parseMountinfo } from './mountinfo.ts';

const needs = ['linux', 'root', 'loop', 'tool:mkfs.ext4'] as const;
const ext4 = mountCapability({ fsType: 'ext4' });

let fixture: NodeFixture;

beforeEach(async () => {
  fixture = await NodeFixture.create();
});

afterEach(async () => {
  await fixture.dispose();
});

async function optionsAt(path: string): Promise<string[]> {
  const entries = parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
  const mount = entries.findLast((entry) => entry.mountPoint === path);
  return mount === undefined ? [] : [...mount.options, ...mount.superOptions];
}

async function reasons(volumeId: string): Promise<string[]> {
  const answer: NodeGetVolumeHealthResponse = await fixture.node.nodeGetVolumeHealth(
    { volumeId, volumePublishPath: '', stagingTargetPath: '' },
    callContext,
  );
  expect(answer.volumeHealth?.volumeId).toBe(volumeId);
  return answer.volumeHealth?.healthStatuses.map(({ reason }) => reason) ?? [];
}

async function storageReasons(): Promise<string[]> {
  const answer = await fixture.node.nodeGetStorageHealth({ secrets: {} }, callContext);
  return answer.backendHealth.map(({ reason }) => reason);
}

const away = new VolumeError('UNAVAILABLE', 'call: it does not answer');

describeRequires(needs, 'a pod', () => {
  test('keeps the owner and mode that the kubelet gives the volume (fsGroup)', async () => {
    const { capabilities } = await fixture.node.nodeGetCapabilities({}, callContext);
    expect(capabilities.map(({ type }) => type?.value.type)).not.toContain(Rpc.VOLUME_MOUNT_GROUP);
    const volume = await fixture.volume('group');
    const use = async (): Promise<void> => {
      await fixture.stage(volume, ext4);
      await fixture.publish(volume, ext4);
    };
    await use();
    await writeFile(join(volume.targetPath, 'file'), 'x');
    for (const path of [volume.targetPath, join(volume.targetPath, 'file')]) {
      await chown(path, -1, 2000);
      await chmod(path, 0o2770);
    }
    await fixture.unpublish(volume);
    await fixture.unstage(volume);
    await use();
    for (const path of [volume.targetPath, join(volume.targetPath, 'file')]) {
      const { gid, mode } = await stat(path);
      expect({ gid, mode: mode & 0o7777 }).toEqual({ gid: 2000, mode: 0o2770 });
    }
  });

  test('sees the mount options of its class', async () => {
    const options = ['noatime', 'data=ordered'];
    const capability = mountCapability({ fsType: 'ext4', mountFlags: options });
    const volume = await fixture.volume('options');
    for (const _ of [1, 2]) await fixture.stage(volume, capability);
    for (const _ of [1, 2]) await fixture.publish(volume, capability);
    expect(await optionsAt(volume.targetPath)).toContain('noatime');
  });

  test.each([
    { name: 'ro', mountFlags: ['ro'] },
    { name: 'ro among others', mountFlags: ['noatime,rw', 'noexec,ro'] },
  ])('reads a volume whose mount options say $name', async ({ mountFlags }) => {
    const volume = await fixture.volume('filled');
    await fixture.stage(volume, ext4);
    await fixture.write(volume.stagingPath, 'kept');
    await fixture.unstage(volume);
    const reader = mountCapability({ fsType: 'ext4', mountFlags });
    for (const _ of [1, 2]) await fixture.stage(volume, reader);
    for (const _ of [1, 2]) await fixture.publish(volume, reader);
    expect(await fixture.read(volume.targetPath)).toBe('kept');
    await expect(fixture.write(volume.targetPath, 'no')).rejects.toThrow('EROFS');
    expect(await reasons(volume.id)).toEqual([]);
    await fixture.unpublish(volume);
    await fixture.unstage(volume);
    await fixture.stage(volume, ext4);
    await fixture.write(volume.stagingPath, 'written');
  });

  test('finds the filesystem of a volume that an administrator made known, without a context', async () => {
    const volume = await fixture.volume('static');
    await fixture.stage(volume, ext4);
    await fixture.write(volume.stagingPath, 'kept');
    await fixture.unstage(volume);
    const request = {
      ...fixture.stageRequest(volume, mountCapability()),
      volumeContext: { team: 'billing', 'storage.kubernetes.io/csiProvisionerIdentity': 'x' },
    };
    await fixture.node.nodeStageVolume(request, callContext);
    expect(await fixture.read(volume.stagingPath)).toBe('kept');
    expect(fixture.ran('mkfs.ext4')).toHaveLength(1);
  });
});

describeRequires(needs, 'health', () => {
  async function staged(): Promise<GrantedVolume> {
    const volume = await fixture.volume('health');
    await fixture.stage(volume, blockCapability());
    return volume;
  }

  test('of a staged volume tells what its device, its volume and its volumedriver lack', async () => {
    const { id } = await staged();
    expect(await reasons(id)).toEqual([]);
    fixture.volumes.setHalted(id, 'EIO');
    expect(await reasons(id)).toEqual(['VolumeHalted']);
    fixture.volumes.setHalted(id, null);
    fixture.volumes.failNext('getVolume', away);
    expect(await reasons(id)).toEqual(['VolumedriverUnreachable']);
    fixture.volumes.failNext('getVolume', new VolumeError('CORRUPT', 'a checksum'));
    expect(await reasons(id)).toEqual(['VolumeDamaged']);
    await fixture.devices.detach(id);
    expect(await reasons(id)).toEqual(['DeviceMissing']);
  });

  test('of a volume that is not staged is that of the volume alone', async () => {
    const { id } = await fixture.volume('elsewhere');
    expect(await reasons(id)).toEqual([]);
    await expect(reasons('memory.unknown')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
  });

  test('of the storage tells what does not answer', async () => {
    expect(await storageReasons()).toEqual([]);
    fixture.volumes.failNext('capacity', away);
    expect(await storageReasons()).toEqual(['VolumedriverUnreachable']);
    fixture.volumes.failNext('capacity', new VolumeError('SHUTTING_DOWN', 'it ends'));
    expect(await storageReasons()).toEqual(['VolumedriverUnreachable']);
  });
});

test('NodeGetInfo answers while nothing else does, with the limit that it was given', async () => {
  for (const method of ['info', 'capacity', 'getVolume'] as const) {
    fixture.volumes.failNext(method, away);
  }
  expect(await fixture.node.nodeGetInfo({}, callContext)).toEqual({
    nodeId: 'node-1',
    maxVolumesPerNode: 128,
    accessibleTopology: { segments: { 'csi.volumedriver.io/node': 'node-1' } },
  });
});
