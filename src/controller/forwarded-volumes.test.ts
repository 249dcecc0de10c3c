import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import { describeVolumeService } from '../../test/support/volume-service-contract.ts';
import { nodeVolumes } from './node-volumes.ts';

describeVolumeService('of a node, wherever it is', () => {
  const volumes = new MemoryVolumeService();
  return Promise.resolve({
    service: nodeVolumes('n1', () => Promise.resolve(volumes)),
    close: () => Promise.resolve(),
  });
});
