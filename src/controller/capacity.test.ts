import { describe, expect, test } from '@jest/globals';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import {
  GetCapacityRequest,
  VolumeCapability_AccessMode_Mode as Mode,
  type DeepPartial,
  type GetCapacityResponse,
} from '../api/generated/csi.ts';
import { getCapacity } from './capacity.ts';
import { volumeBytesMin } from './capacity-range.ts';
import { staticVolumedrivers } from './volumedrivers.ts';

const gibibyte = 1024 ** 3;
const tebibyte = 1024 ** 4;

async function capacityOf(
  capacityBytes: number[],
  options: { overcommit?: number; changes?: DeepPartial<GetCapacityRequest> } = {},
): Promise<GetCapacityResponse> {
  const services = capacityBytes.map((bytes, index) => {
    const node = { nodeId: `n${index + 1}`, backendId: `b${index + 1}` };
    return new MemoryVolumeService({ ...node, capacityBytes: bytes });
  });
  const volumedrivers = staticVolumedrivers(services);
  const { overcommit = 10, changes = {} } = options;
  return await getCapacity(
    { driverName: 'driver', volumedrivers, overcommit },
    GetCapacityRequest.fromPartial(changes),
  );
}

const at = (node: string) => ({ accessibleTopology: { segments: { 'driver/node': node } } });

describe('the largest volume', () => {
  test.each([
    { name: 'is so many times what is free', free: gibibyte, overcommit: 10, max: 10 * gibibyte },
    {
      name: 'is what is free without overcommitment',
      free: gibibyte,
      overcommit: 1,
      max: gibibyte,
    },
    { name: 'is whole clusters', free: 8191, overcommit: 1, max: 4096 },
    { name: 'is what the format takes', free: 100 * tebibyte, overcommit: 10, max: 64 * tebibyte },
    { name: 'is none on a full disk', free: 0, overcommit: 10, max: 0 },
  ])('$name', async ({ free, overcommit, max }) => {
    expect(await capacityOf([free], { overcommit })).toEqual({
      availableCapacity: free,
      maximumVolumeSize: max,
      minimumVolumeSize: volumeBytesMin,
    });
  });
});

describe('of several nodes', () => {
  const free = [gibibyte, 2 * gibibyte];

  test('is that of the one that the topology names', async () => {
    expect(await capacityOf(free, { changes: at('n2') })).toMatchObject({
      availableCapacity: 2 * gibibyte,
      maximumVolumeSize: 20 * gibibyte,
    });
  });

  test('is all of it without a topology, and the largest volume still fits one node', async () => {
    expect(await capacityOf(free)).toMatchObject({
      availableCapacity: 3 * gibibyte,
      maximumVolumeSize: 20 * gibibyte,
    });
  });

  test.each<[string, DeepPartial<GetCapacityRequest>]>([
    ['a node without a volumedriver', at('n9')],
    ['a topology of another driver', { accessibleTopology: { segments: { zone: 'a' } } }],
    [
      'writers on many nodes',
      {
        volumeCapabilities: [
          {
            accessMode: { mode: Mode.MULTI_NODE_MULTI_WRITER },
            accessType: { $case: 'block', value: {} },
          },
        ],
      },
    ],
  ])('is none for %s', async (_, changes) => {
    expect(await capacityOf(free, { changes })).toMatchObject({
      availableCapacity: 0,
      maximumVolumeSize: 0,
    });
  });
});
