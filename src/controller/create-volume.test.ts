/** Repeated CreateVolume calls: whose source changed after the first, and while the first still runs. */
import { expect, test } from '@jest/globals';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import {
  CreateVolumeRequest,
  VolumeCapability_AccessMode_Mode as Mode,
} from '../api/generated/csi.ts';
import { callContext } from '../../test/support/node-fixture.ts';
import { createControllerService } from './controller-service.ts';
import { createVolume } from './create-volume.ts';
import { staticNodes } from './node-registry.ts';
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

test('a call that is repeated while it still runs waits for it, wherever that has got to', async () => {
  const volumes = new MemoryVolumeService();
  const service = createControllerService({
    driverName: 'driver',
    volumedrivers: staticVolumedrivers([volumes]),
    nodes: staticNodes(['n1']),
    overcommit: 10,
    attachLimit: 10,
    deletesUnpublishedOnly: true,
  });
  const capacity = await volumes.capacity();
  const answer = Promise.withResolvers<typeof capacity>();
  const asked = Promise.withResolvers<undefined>();
  volumes.capacity = () => {
    asked.resolve(undefined);
    return answer.promise;
  };
  const request = { ...cloneRequest('v', ''), volumeContentSource: undefined };
  const first = service.createVolume(request, callContext);
  await asked.promise;
  await expect(service.createVolume(request, callContext)).rejects.toMatchObject({
    code: 'OPERATION_PENDING',
  });
  answer.resolve(capacity);
  expect(await first).toEqual(await service.createVolume(request, callContext));
});
