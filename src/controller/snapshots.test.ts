import { expect, test } from '@jest/globals';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import { CreateSnapshotRequest } from '../api/generated/csi.ts';
import { createSnapshot } from './snapshots.ts';
import { staticVolumedrivers } from './volumedrivers.ts';

test('a source id that is the name of a volume reaches nothing', async () => {
  const volumes = new MemoryVolumeService();
  await volumes.createVolume({ name: 'pvc-1', sizeBytes: 1024 * 1024 });
  const request = CreateSnapshotRequest.fromPartial({ name: 'snapshot', sourceVolumeId: 'pvc-1' });
  await expect(createSnapshot(staticVolumedrivers([volumes]), request)).rejects.toMatchObject({
    code: 'VOLUME_NOT_FOUND',
  });
  expect((await volumes.listSnapshots({}, {})).items).toEqual([]);
});
