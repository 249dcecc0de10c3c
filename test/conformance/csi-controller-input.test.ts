/**
 * Every controller RPC with every kind of bad input, over a real socket as a sidecar would send it: the status code
 * decides what the caller does next.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { VolumeCapability_AccessMode_Mode as Mode } from '../../src/api/generated/csi.ts';
import {
  capabilityRows,
  checkRows,
  CsiCalls,
  hugeMap,
  invalid,
  missing,
  mount,
  tooLong,
  unknown,
  withMode,
} from '../support/csi-calls.ts';

const secrets = {};

let calls: CsiCalls;

beforeAll(async () => {
  calls = await CsiCalls.open();
});

afterAll(async () => {
  await calls.close();
});

describe('CreateVolume', () => {
  const valid = {
    name: 'fresh',
    volumeCapabilities: [mount],
    parameters: {},
    mutableParameters: {},
    secrets,
  };
  checkRows({ service: 'controller', name: 'createVolume', calls: () => calls }, valid, [
    missing('name'),
    tooLong('name'),
    invalid('a control character in the name', { name: 'a\u0007b' }),
    invalid('no capability', { volumeCapabilities: [] }),
    ...capabilityRows('volumeCapabilities', (capability) => [mount, capability]),
    invalid('readers on many nodes of a backend on one', {
      volumeCapabilities: [withMode(Mode.MULTI_NODE_READER_ONLY)],
    }),
    invalid('an unknown parameter', { parameters: { replicas: '3' } }),
    invalid('an unknown value', { parameters: { flushTo: 'moon' } }),
    invalid('too many parameters', { parameters: hugeMap }),
    invalid('mutable parameters', { mutableParameters: { iops: '5' } }),
    invalid('a negative size', { capacityRange: { requiredBytes: -1, limitBytes: 0 } }),
    invalid('a negative limit', { capacityRange: { requiredBytes: 0, limitBytes: -1 } }),
    invalid('a limit below the size', { capacityRange: { requiredBytes: 2, limitBytes: 1 } }),
    {
      name: 'a limit that no volume meets',
      fields: { capacityRange: { requiredBytes: 1, limitBytes: 4096 } },
      code: 'OUT_OF_RANGE',
    },
    {
      name: 'an absurd size',
      fields: { capacityRange: { requiredBytes: Number.MAX_SAFE_INTEGER - 1, limitBytes: 0 } },
      code: 'OUT_OF_RANGE',
    },
    invalid('a source without kind', { volumeContentSource: { type: undefined } }),
    invalid('a source without id', {
      volumeContentSource: { type: { $case: 'volume', value: { volumeId: '' } } },
    }),
    {
      name: 'an unknown source volume',
      fields: { volumeContentSource: { type: { $case: 'volume', value: { volumeId: 'no' } } } },
      code: 'NOT_FOUND',
    },
    {
      name: 'the name of a source volume in place of its id',
      fields: { volumeContentSource: { type: { $case: 'volume', value: { volumeId: 'taken' } } } },
      code: 'NOT_FOUND',
    },
    {
      name: 'an unknown source snapshot',
      fields: { volumeContentSource: { type: { $case: 'snapshot', value: { snapshotId: 'no' } } } },
      code: 'NOT_FOUND',
    },
    {
      name: 'a taken name with another size',
      fields: { name: 'taken', capacityRange: { requiredBytes: 2 * 1024 ** 3, limitBytes: 0 } },
      code: 'ALREADY_EXISTS',
    },
    {
      name: 'a topology without a volumedriver',
      fields: {
        accessibilityRequirements: {
          requisite: [{ segments: { 'csi.volumedriver.io/node': 'node-2' } }],
          preferred: [],
        },
      },
      code: 'RESOURCE_EXHAUSTED',
    },
    { name: '128 bytes of name', fields: { name: 'y'.repeat(128) }, code: 'OK' },
    { name: 'a name of any letters', fields: { name: 'Dátä 数据 🙂' }, code: 'OK' },
    {
      name: 'metadata of the provisioner',
      fields: { parameters: { 'csi.storage.k8s.io/pvc/name': 'x' } },
      code: 'OK',
    },
  ]);

  test('a volume smaller than its snapshot: OUT_OF_RANGE', async () => {
    const answer = await calls.codeOf('controller', 'createVolume', {
      ...valid,
      name: 'small',
      capacityRange: { requiredBytes: 1024 ** 2, limitBytes: 0 },
      volumeContentSource: { type: { $case: 'snapshot', value: { snapshotId: calls.snapshotId } } },
    });
    expect(answer).toMatchObject({ code: 'OUT_OF_RANGE' });
  });
});

describe('DeleteVolume', () => {
  const valid = { volumeId: 'memory.unknown', secrets };
  checkRows({ service: 'controller', name: 'deleteVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    unknown('volumeId', 'OK'),
    {
      name: 'a published volume',
      fields: { volumeId: '<published>' },
      code: 'FAILED_PRECONDITION',
    },
  ]);
});

describe('ControllerPublishVolume', () => {
  const valid = {
    volumeId: '<volume>',
    nodeId: 'node-1',
    volumeCapability: mount,
    readonly: false,
    secrets,
    volumeContext: {},
  };
  checkRows({ service: 'controller', name: 'controllerPublishVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    unknown('volumeId', 'NOT_FOUND'),
    missing('nodeId'),
    invalid('257 bytes of nodeId', { nodeId: 'n'.repeat(257) }),
    unknown('nodeId', 'NOT_FOUND'),
    invalid('no capability', { volumeCapability: undefined }),
    ...capabilityRows('volumeCapability', (capability) => capability),
    {
      name: 'a volume in the other mode',
      fields: { volumeId: '<published>' },
      code: 'ALREADY_EXISTS',
    },
    invalid('too much context', { volumeContext: hugeMap }),
  ]);
});

describe('ControllerUnpublishVolume', () => {
  const valid = { volumeId: '<volume>', nodeId: 'node-1', secrets };
  checkRows(
    { service: 'controller', name: 'controllerUnpublishVolume', calls: () => calls },
    valid,
    [
      missing('volumeId'),
      tooLong('volumeId'),
      unknown('volumeId', 'OK'),
      unknown('nodeId', 'OK'),
      missing('nodeId', 'OK'),
    ],
  );
});

describe('ValidateVolumeCapabilities', () => {
  const valid = {
    volumeId: '<volume>',
    volumeContext: {},
    volumeCapabilities: [mount],
    parameters: {},
    mutableParameters: {},
    secrets,
  };
  checkRows(
    { service: 'controller', name: 'validateVolumeCapabilities', calls: () => calls },
    valid,
    [
      missing('volumeId'),
      tooLong('volumeId'),
      unknown('volumeId', 'NOT_FOUND'),
      invalid('no capability', { volumeCapabilities: [] }),
      invalid('a capability without access mode', {
        volumeCapabilities: [{ ...mount, accessMode: undefined }],
      }),
      invalid('a capability without access type', {
        volumeCapabilities: [{ ...mount, accessType: undefined }],
      }),
      {
        name: 'a capability that is not supported',
        fields: { volumeCapabilities: [withMode(Mode.MULTI_NODE_MULTI_WRITER)] },
        code: 'OK',
      },
    ],
  );
});

describe('ListVolumes', () => {
  checkRows(
    { service: 'controller', name: 'listVolumes', calls: () => calls },
    { maxEntries: 0, startingToken: '' },
    [
      invalid('negative maxEntries', { maxEntries: -1 }),
      { name: 'a token of nobody', fields: { startingToken: 'invalid-token' }, code: 'ABORTED' },
    ],
  );
});

describe('GetCapacity', () => {
  const valid = { volumeCapabilities: [], parameters: {} };
  checkRows({ service: 'controller', name: 'getCapacity', calls: () => calls }, valid, [
    invalid('an unknown parameter', { parameters: { replicas: '3' } }),
    invalid('a capability without access mode', {
      volumeCapabilities: [{ ...mount, accessMode: undefined }],
    }),
    { name: 'nothing', fields: {}, code: 'OK' },
  ]);
});

describe('ControllerGetVolume', () => {
  checkRows(
    { service: 'controller', name: 'controllerGetVolume', calls: () => calls },
    { volumeId: '<volume>' },
    [
      missing('volumeId'),
      tooLong('volumeId'),
      unknown('volumeId', 'NOT_FOUND'),
      { name: 'a name in place of an id', fields: { volumeId: 'taken' }, code: 'NOT_FOUND' },
    ],
  );
});

describe('ControllerExpandVolume', () => {
  const valid = {
    volumeId: '<volume>',
    capacityRange: { requiredBytes: 1024 ** 3, limitBytes: 0 },
    secrets,
    volumeCapability: undefined,
  };
  checkRows({ service: 'controller', name: 'controllerExpandVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    unknown('volumeId', 'NOT_FOUND'),
    invalid('no capacity range', { capacityRange: undefined }),
    invalid('a negative size', { capacityRange: { requiredBytes: -1, limitBytes: 0 } }),
    invalid('a limit below the size', { capacityRange: { requiredBytes: 2, limitBytes: 1 } }),
    ...capabilityRows('volumeCapability', (capability) => capability),
    {
      name: 'a limit below its size',
      fields: { capacityRange: { requiredBytes: 0, limitBytes: 4096 } },
      code: 'OUT_OF_RANGE',
    },
    {
      name: 'an absurd size',
      fields: { capacityRange: { requiredBytes: Number.MAX_SAFE_INTEGER - 1, limitBytes: 0 } },
      code: 'OUT_OF_RANGE',
    },
  ]);
});

describe('CreateSnapshot', () => {
  const valid = {
    sourceVolumeId: '<volume>',
    name: 'weekly',
    parameters: {},
    secrets,
  };
  checkRows({ service: 'controller', name: 'createSnapshot', calls: () => calls }, valid, [
    missing('name'),
    tooLong('name'),
    missing('sourceVolumeId'),
    tooLong('sourceVolumeId'),
    unknown('sourceVolumeId', 'NOT_FOUND'),
    invalid('an unknown parameter', { parameters: { color: 'red' } }),
    {
      name: 'the name of a snapshot of another volume',
      fields: { name: 'nightly', sourceVolumeId: '<published>' },
      code: 'ALREADY_EXISTS',
    },
  ]);
});

describe('DeleteSnapshot', () => {
  checkRows(
    { service: 'controller', name: 'deleteSnapshot', calls: () => calls },
    { snapshotId: 'memory.unknown', secrets },
    [missing('snapshotId'), tooLong('snapshotId'), unknown('snapshotId', 'OK')],
  );
});

describe('GetSnapshot', () => {
  checkRows(
    { service: 'controller', name: 'getSnapshot', calls: () => calls },
    { snapshotId: '<snapshot>', secrets },
    [
      missing('snapshotId'),
      tooLong('snapshotId'),
      unknown('snapshotId', 'NOT_FOUND'),
      { name: 'a name in place of an id', fields: { snapshotId: 'nightly' }, code: 'NOT_FOUND' },
      { name: 'a known one', fields: {}, code: 'OK' },
    ],
  );
});

describe('ListSnapshots', () => {
  const valid = {
    maxEntries: 0,
    startingToken: '',
    sourceVolumeId: '',
    snapshotId: '',
    secrets,
  };
  checkRows({ service: 'controller', name: 'listSnapshots', calls: () => calls }, valid, [
    invalid('negative maxEntries', { maxEntries: -1 }),
    { name: 'a token of nobody', fields: { startingToken: 'invalid-token' }, code: 'ABORTED' },
    tooLong('snapshotId'),
    unknown('snapshotId', 'OK'),
    unknown('sourceVolumeId', 'OK'),
  ]);
});

describe('ControllerGetVolumeHealth', () => {
  const valid = { volumeId: '<volume>', secrets };
  checkRows(
    { service: 'controller', name: 'controllerGetVolumeHealth', calls: () => calls },
    valid,
    [missing('volumeId'), tooLong('volumeId'), unknown('volumeId', 'NOT_FOUND')],
  );
});

describe('ControllerListVolumeHealth', () => {
  const valid = { maxEntries: 0, startingToken: '', secrets };
  checkRows(
    { service: 'controller', name: 'controllerListVolumeHealth', calls: () => calls },
    valid,
    [
      invalid('a negative number of entries', { maxEntries: -1 }),
      { name: 'a token of nobody', fields: { startingToken: 'x' }, code: 'ABORTED' },
    ],
  );
});
