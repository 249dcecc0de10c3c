import { expect, test } from '@jest/globals';
import { NodeStageVolumeRequest } from '../api/generated/csi.ts';
import { redact } from './redact.ts';

const path = '/csi.v1.Node/NodeStageVolume';

test('a printed request keeps its shape and loses its secrets', () => {
  const request = NodeStageVolumeRequest.fromPartial({
    volumeId: 'b.v',
    secrets: { user: 'root', password: 'hunter2' },
    volumeContext: { kind: 'x', 'csi.storage.k8s.io/serviceAccount.tokens': 'hunter2' },
    volumeCapability: {
      accessType: {
        $case: 'mount',
        value: { fsType: 'ext4', mountFlags: ['noatime', 'key=hunter2'] },
      },
      accessMode: { mode: 1 },
    },
  });
  const before = structuredClone(request);
  const printed = redact(path, request);
  expect(printed).toEqual({
    volumeId: 'b.v',
    publishContext: {},
    stagingTargetPath: '',
    secrets: { user: '***', password: '***' },
    volumeContext: { kind: 'x', 'csi.storage.k8s.io/serviceAccount.tokens': '***' },
    volumeCapability: {
      accessType: {
        $case: 'mount',
        value: { fsType: 'ext4', mountFlags: ['***', '***'], volumeMountGroup: '' },
      },
      accessMode: { mode: 1 },
    },
  });
  expect(request).toEqual(before);
  expect(JSON.stringify(printed)).not.toContain('hunter2');
});

test('a request that could not be decoded is printable too', () => {
  expect(redact(path, undefined)).toBeUndefined();
});
