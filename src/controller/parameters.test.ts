import { describe, expect, test } from '@jest/globals';
import { checkSnapshotParameters, parseVolumeParameters } from './parameters.ts';

const refused = expect.objectContaining({ code: 'INVALID_ARGUMENT' });

describe('parseVolumeParameters', () => {
  const good = [
    { name: 'none', parameters: {}, parsed: {} },
    { name: 'flushTo local', parameters: { flushTo: 'local' }, parsed: { flushTo: 'local' } },
    { name: 'flushTo backend', parameters: { flushTo: 'backend' }, parsed: { flushTo: 'backend' } },
    {
      name: "the sidecar's metadata",
      parameters: { 'csi.storage.k8s.io/pvc/name': 'data', 'csi.storage.k8s.io/pv/name': 'pvc-1' },
      parsed: {},
    },
    {
      name: 'a filesystem',
      parameters: { 'csi.storage.k8s.io/fstype': 'xfs' },
      parsed: { fsType: 'xfs' },
    },
  ];
  test.each(good)('accepts $name', ({ parameters, parsed }) => {
    expect(parseVolumeParameters({ ...parameters })).toEqual(parsed);
  });

  const bad = [
    { name: 'an unknown key', parameters: { replicas: '3' } },
    { name: 'a key in other letters', parameters: { flushto: 'backend' } },
    { name: 'an unknown flushTo', parameters: { flushTo: 'moon' } },
    { name: 'an empty flushTo', parameters: { flushTo: '' } },
    { name: 'an unknown filesystem', parameters: { 'csi.storage.k8s.io/fstype': 'btrfs' } },
  ];
  test.each(bad)('refuses $name', ({ parameters }) => {
    expect(() => parseVolumeParameters({ ...parameters })).toThrow(refused);
  });
});

describe('checkSnapshotParameters', () => {
  test('tolerates the metadata of the sidecar', () => {
    checkSnapshotParameters({ 'csi.storage.k8s.io/volumesnapshot/name': 'nightly' });
  });

  test('refuses any other key', () => {
    expect(() => {
      checkSnapshotParameters({ flushTo: 'local' });
    }).toThrow(refused);
  });
});
