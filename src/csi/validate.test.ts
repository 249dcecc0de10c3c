import { describe, expect, test } from '@jest/globals';
import {
  ControllerPublishVolumeRequest,
  CreateVolumeRequest,
  NodePublishVolumeRequest,
} from '../api/generated/csi.ts';
import { checkLimits, pageLimit, requireMessage, requireString } from './validate.ts';

const mount = (mountFlags: string[], fsType = 'ext4') => ({
  accessType: { $case: 'mount', value: { mountFlags, fsType } } as const,
});

describe('the size limits of CSI', () => {
  test.each<[string, unknown]>([
    ['a name of 128 bytes', CreateVolumeRequest.fromPartial({ name: 'é'.repeat(64) })],
    [
      'a node id of 256 bytes',
      ControllerPublishVolumeRequest.fromPartial({ nodeId: 'n'.repeat(256) }),
    ],
    [
      'a path of 4095 bytes',
      NodePublishVolumeRequest.fromPartial({ targetPath: 'p'.repeat(4095) }),
    ],
    [
      'a value of 4 KiB in a map',
      CreateVolumeRequest.fromPartial({ parameters: { k: 'x'.repeat(4095) } }),
    ],
    [
      'mount flags of 4 KiB',
      CreateVolumeRequest.fromPartial({ volumeCapabilities: [mount(['x'.repeat(4096)])] }),
    ],
    ['nothing at all', CreateVolumeRequest.create()],
  ])('allow %s', (_, request) => {
    expect(() => {
      checkLimits(request);
    }).not.toThrow();
  });

  test.each<[string, unknown, string]>([
    [
      'a name of 129 bytes',
      CreateVolumeRequest.fromPartial({ name: 'é'.repeat(64) + 'x' }),
      'name: it has 129 bytes',
    ],
    [
      'a node id of 257 bytes',
      ControllerPublishVolumeRequest.fromPartial({ nodeId: 'n'.repeat(257) }),
      'node_id: it has 257 bytes',
    ],
    [
      'a path that the kernel refuses',
      NodePublishVolumeRequest.fromPartial({ targetPath: 'p'.repeat(4096) }),
      'target_path: it has 4096 bytes',
    ],
    [
      'a map of more than 4 KiB',
      CreateVolumeRequest.fromPartial({ secrets: { a: 'x'.repeat(2048), b: 'x'.repeat(2048) } }),
      'secrets: it has 4098 bytes',
    ],
    [
      'a long filesystem name in the second capability',
      CreateVolumeRequest.fromPartial({
        volumeCapabilities: [mount([]), mount([], 'x'.repeat(129))],
      }),
      'volume_capabilities[1].mount.fs_type: it has 129 bytes',
    ],
    [
      'mount flags of more than 4 KiB',
      CreateVolumeRequest.fromPartial({
        volumeCapabilities: [mount(['x'.repeat(4000), 'y'.repeat(97)])],
      }),
      'volume_capabilities[0].mount.mount_flags: they have 4097 bytes',
    ],
    [
      'a long snapshot id in a oneof',
      CreateVolumeRequest.fromPartial({
        volumeContentSource: {
          type: { $case: 'snapshot', value: { snapshotId: 's'.repeat(200) } },
        },
      }),
      'volume_content_source.snapshot.snapshot_id: it has 200 bytes',
    ],
    [
      'topology segments of more than 4 KiB',
      CreateVolumeRequest.fromPartial({
        accessibilityRequirements: { requisite: [{ segments: { zone: 'z'.repeat(4096) } }] },
      }),
      'accessibility_requirements.requisite[0].segments: it has 4100 bytes',
    ],
  ])('refuse %s', (_, request, text) => {
    expect(() => {
      checkLimits(request);
    }).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(text) }),
    );
  });
});

test('required fields and page limits', () => {
  expect(requireString('volume_id', 'v')).toBe('v');
  expect(() => requireString('volume_id', '')).toThrow('volume_id: it is required');
  expect(requireMessage('capability', 0)).toBe(0);
  expect(() => requireMessage('capability', undefined)).toThrow('capability: it is required');
  expect([pageLimit(0), pageLimit(7)]).toEqual([undefined, 7]);
  expect(() => pageLimit(-1)).toThrow('max_entries: it must not be negative');
});
