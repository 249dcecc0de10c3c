/** Repeated CreateVolume calls whose source changed after the first. */
import { expect, test } from '@jest/globals';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import {
  CreateVolumeRequest,
  VolumeCapability_AccessMode_Mode as Mode,
} from '../api/generated/csi.ts';
import { createVolume } from './create-volume.ts';
import { staticVolumedrivers } from './volumedrivers.ts';

const mebibyte = 1024 * 1024;

function cloneRequest(name: string, volumeId: string): CreateVolumeRequest {
  return CreateVolumeRequest.fromPartial({
    name,
    volumeCapabilities: [
      {
        accessMode: { mode: Mode.SINGLE_NODE_WRITER },
        accessType: { $case: 'block', value: {} },
      },
    ],
    capacityRange: { requiredBytes: 8 * mebibyte, limitBytes: 8 * mebibyte },
    volumeContentSource: { type: { $case: 'volume', value: { volumeId } } },
  });
}

test('a clone is found again after its source grew; a new one does not fit', async () => {
  const volumes = new MemoryVolumeService();
  const parts = {
    driverName: 'driver',
    volumedrivers: staticVolumedrivers([volumes]),
    overcommit: 10,
  };
  const source = await volumes.createVolume({ name: 'source', sizeBytes: 8 * mebibyte });
  const first = await createVolume(parts, cloneRequest('clone', source.id));
  await volumes.growVolume(source.id, 16 * mebibyte);
  const again = await createVolume(parts, cloneRequest('clone', source.id));
  expect(again).toEqual(first);
  await expect(createVolume(parts, cloneRequest('another', source.id))).rejects.toMatchObject({
    code: 'OUT_OF_RANGE',
  });
});
