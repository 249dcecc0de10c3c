import { describe, expect, test } from '@jest/globals';
import { StorageHealthErrorType as Kind } from '../api/generated/csi.ts';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import type { Device, DeviceService } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import { deviceProblem, getStorageHealth, mountProblem, spaceProblem } from './node-health.ts';
import type { MountEntry } from './mountinfo.ts';
import type { StageRecord } from './stage-records.ts';

const gibibyte = 1024 ** 3;
const use = { kind: 'mount' as const, accessMode: '', fsType: '', mountFlagsDigest: '' };
const record: StageRecord = {
  ...{ formatVersion: 1, volumeId: 'b.v', stagingPath: '/staging', generation: 1 },
  ...{ readOnly: false, use, fsType: 'ext4', targets: [] },
};
const device: Device = {
  ...{ volumeId: 'b.v', path: '/dev/nbd7', sizeBytes: gibibyte, readOnly: false, uri: '' },
  ...{ state: 'attached', strategy: 'kernel', reason: '' },
};

describe('a device', () => {
  test.each<[string, Device | Error | undefined, string | undefined]>([
    ['that works', device, undefined],
    ['that waits', { ...device, state: 'waiting', reason: 'gone' }, 'DeviceWaiting'],
    ['that was given up', { ...device, state: 'broken', reason: 'gone' }, 'DeviceBroken'],
    ['that is not there', undefined, 'DeviceMissing'],
    ['of an attacher that is away', new Error('away'), 'AttacherUnreachable'],
  ])('%s', (_, given, reason) => {
    expect(deviceProblem(given, record)?.reason).toBe(reason);
  });

  test('of a volume that is not staged need not be there', () => {
    expect(deviceProblem(undefined, undefined)).toBeUndefined();
  });
});

describe('a filesystem', () => {
  const mount = (superOptions: string[]): MountEntry => ({
    ...{ device: '43:0', root: '/', mountPoint: '/staging', options: ['rw'] },
    ...{ fsType: 'ext4', source: '/dev/nbd7', superOptions },
  });

  test.each<[string, StageRecord, string[], string | undefined]>([
    ['that is written', record, ['rw'], undefined],
    ['that became read-only', record, ['ro'], 'FilesystemReadOnly'],
    ['that is read-only', { ...record, readOnly: true }, ['ro'], undefined],
    ['that shut down', record, ['rw', 'shutdown'], 'FilesystemShutDown'],
  ])('%s', (_, given, options, reason) => {
    expect(mountProblem(given, mount(options))?.reason).toBe(reason);
  });
});

describe('space', () => {
  test.each([
    { free: 50 * gibibyte, reason: undefined },
    { free: 5.1 * gibibyte, reason: undefined },
    { free: 5 * gibibyte, reason: 'DiskNearlyFull' },
    { free: 0, reason: 'DiskFull' },
    { free: -gibibyte, reason: 'DiskFull' },
  ])('of $free bytes in 100 GiB', ({ free, reason }) => {
    const capacity = { totalBytes: 100 * gibibyte, availableBytes: free };
    const problem = spaceProblem(capacity);
    expect(problem?.reason).toBe(reason);
    if (reason !== undefined) expect(problem?.status).toBe(Kind.STORAGE_DEGRADED);
  });
});

test('an attacher that is away makes storage unreachable', async () => {
  const devices: Pick<DeviceService, 'listDevices'> = {
    listDevices: () => Promise.reject(new VolumeError('UNAVAILABLE', 'away')),
  };
  const parts = { volumes: new MemoryVolumeService(), devices };
  const { backendHealth } = await getStorageHealth(parts);
  expect(backendHealth).toMatchObject([
    { status: Kind.STORAGE_UNREACHABLE, reason: 'AttacherUnreachable' },
  ]);
});
