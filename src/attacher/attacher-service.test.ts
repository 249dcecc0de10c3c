/** What needs no device: which strategies serve which records. */
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { silentLogger } from '../base/logger.ts';
import { VolumeError } from '../volumes/errors.ts';
import { AttacherService } from './attacher-service.ts';
import { encodeRecord, volumeKey } from './records.ts';
import type { DeviceStrategy } from './strategy.ts';

const volumeId = 'v';
let stateDirectory: string;

beforeEach(async () => {
  stateDirectory = await mkdtemp(join(tmpdir(), 'attacher-service-'));
});
afterEach(async () => {
  await rm(stateDirectory, { recursive: true, force: true });
});

/** A strategy that never made a device; called for nothing else. */
function idle(name: string, capable: boolean): DeviceStrategy {
  const idleStrategy: Partial<DeviceStrategy> = {
    name,
    start: async () => {
      if (!capable) throw new VolumeError('NOT_CAPABLE', `${name}: not here`);
    },
    close: async () => undefined,
    onTrouble: () => undefined,
    list: async () => [],
  };
  return idleStrategy as DeviceStrategy;
}

async function startWithRecord(bootId: string): Promise<{ service: AttacherService }> {
  await mkdir(join(stateDirectory, 'records'), { recursive: true });
  const record = encodeRecord({
    version: 1,
    instanceId: 'i',
    bootId,
    volumeId,
    uri: 'nbd+unix:///v?socket=/s',
    readOnly: false,
    strategy: 'kernel',
    phase: 'attached',
    details: null,
  });
  await writeFile(join(stateDirectory, 'records', `${volumeKey(volumeId)}.json`), record);
  const service = new AttacherService({
    stateDirectory,
    driverName: 'test',
    strategies: [idle('fuse', true), idle('kernel', false)],
    clock: systemClock,
    logger: silentLogger,
    bootId: 'this boot',
  });
  await service.start();
  return { service };
}

test('a record from before a reboot goes, though its strategy does not run any more', async () => {
  const { service } = await startWithRecord('another boot');
  expect(await service.listDevices()).toEqual([]);
  expect(await readdir(join(stateDirectory, 'records'))).toEqual([]);
  await service.close();
});

test('a device of a strategy that does not run here is shown as broken', async () => {
  const { service } = await startWithRecord('this boot');
  expect(await service.listDevices()).toMatchObject([
    { volumeId, strategy: 'kernel', state: 'broken', reason: expect.stringContaining('kernel') },
  ]);
  await expect(service.getDevice(volumeId)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
  await service.close();
});
