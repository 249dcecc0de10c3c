/**
 * Every node RPC with every kind of bad input, over a real socket as a kubelet would send it. Nothing here gets as
 * far as a device, so it needs no root.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  capabilityRows,
  checkRows,
  CsiCalls,
  invalid,
  missing,
  mount,
  pathRows,
  tooLong,
  unknown,
} from '../support/csi-calls.ts';

const secrets = {};

let calls: CsiCalls;

beforeAll(async () => {
  calls = await CsiCalls.open();
});

afterAll(async () => {
  await calls.close();
});

describe('NodeStageVolume', () => {
  const valid = {
    volumeId: '<volume>',
    publishContext: { generation: '1' },
    stagingTargetPath: '/nonexistent/staging',
    volumeCapability: mount,
    secrets,
    volumeContext: {},
  };
  checkRows({ service: 'node', name: 'nodeStageVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    unknown('volumeId', 'NOT_FOUND'),
    { name: 'a name in place of an id', fields: { volumeId: 'taken' }, code: 'NOT_FOUND' },
    ...pathRows('stagingTargetPath'),
    invalid('no capability', { volumeCapability: undefined }),
    ...capabilityRows('volumeCapability', (capability) => capability),
    invalid('no publish context', { publishContext: {} }),
    invalid('a generation that is no number', { publishContext: { generation: '1.5' } }),
    invalid('a generation of zero', { publishContext: { generation: '0' } }),
    invalid('a negative generation', { publishContext: { generation: '-1' } }),
    invalid('an endless generation', { publishContext: { generation: '9'.repeat(16) } }),
    invalid('an unknown filesystem in the context', { volumeContext: { fsType: 'btrfs' } }),
    { name: 'a grant that is gone', fields: {}, code: 'FAILED_PRECONDITION' },
  ]);
});

describe('NodeUnstageVolume', () => {
  const valid = { volumeId: '<volume>', stagingTargetPath: '/nonexistent/staging' };
  checkRows({ service: 'node', name: 'nodeUnstageVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    ...pathRows('stagingTargetPath'),
    unknown('volumeId', 'OK'),
    { name: 'a volume that is not staged', fields: {}, code: 'OK' },
  ]);
});

describe('NodePublishVolume', () => {
  const valid = {
    volumeId: '<volume>',
    publishContext: {},
    stagingTargetPath: '/nonexistent/staging',
    targetPath: '/nonexistent/target',
    volumeCapability: mount,
    readonly: false,
    secrets,
    volumeContext: {},
  };
  checkRows({ service: 'node', name: 'nodePublishVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    unknown('volumeId', 'NOT_FOUND'),
    ...pathRows('targetPath'),
    missing('stagingTargetPath', 'FAILED_PRECONDITION'),
    ...pathRows('stagingTargetPath').slice(1),
    invalid('no capability', { volumeCapability: undefined }),
    ...capabilityRows('volumeCapability', (capability) => capability),
    { name: 'a volume that is not staged', fields: {}, code: 'FAILED_PRECONDITION' },
  ]);
});

describe('NodeUnpublishVolume', () => {
  const valid = { volumeId: '<volume>', targetPath: '/nonexistent/target' };
  checkRows({ service: 'node', name: 'nodeUnpublishVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    ...pathRows('targetPath'),
    unknown('volumeId', 'OK'),
    { name: 'a path that is not there', fields: {}, code: 'OK' },
  ]);
});

describe('NodeGetVolumeStats', () => {
  const valid = { volumeId: '<volume>', volumePath: '/nonexistent', stagingTargetPath: '' };
  checkRows({ service: 'node', name: 'nodeGetVolumeStats', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    missing('volumePath'),
    invalid('4096 bytes of volumePath', { volumePath: 'x'.repeat(4096) }),
    unknown('volumeId', 'NOT_FOUND'),
    { name: 'a volume that is not staged', fields: {}, code: 'NOT_FOUND' },
    { name: 'a relative path', fields: { volumePath: 'some/path' }, code: 'NOT_FOUND' },
  ]);
});

describe('NodeExpandVolume', () => {
  const valid = {
    volumeId: '<volume>',
    volumePath: '/nonexistent',
    stagingTargetPath: '',
    secrets,
  };
  checkRows({ service: 'node', name: 'nodeExpandVolume', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    missing('volumePath'),
    unknown('volumeId', 'NOT_FOUND'),
    invalid('a negative size', { capacityRange: { requiredBytes: -1, limitBytes: 0 } }),
    invalid('a limit below the size', { capacityRange: { requiredBytes: 2, limitBytes: 1 } }),
    ...capabilityRows('volumeCapability', (capability) => capability),
    { name: 'a volume that is not staged', fields: {}, code: 'NOT_FOUND' },
  ]);
});

describe('NodeGetVolumeHealth', () => {
  const valid = { volumeId: '<volume>', volumePublishPath: '', stagingTargetPath: '' };
  checkRows({ service: 'node', name: 'nodeGetVolumeHealth', calls: () => calls }, valid, [
    missing('volumeId'),
    tooLong('volumeId'),
    unknown('volumeId', 'NOT_FOUND'),
    { name: 'a name in place of an id', fields: { volumeId: 'taken' }, code: 'NOT_FOUND' },
    { name: 'a volume that is not staged', fields: {}, code: 'OK' },
  ]);
});

test('controllerModifyVolume is not offered: UNIMPLEMENTED', async () => {
  const message = { volumeId: calls.volumeId, secrets, mutableParameters: {} };
  expect(await calls.codeOf('controller', 'controllerModifyVolume', message)).toMatchObject({
    code: 'UNIMPLEMENTED',
  });
});
