import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { MemoryVolumeService } from '../../test/support/memory-volume-service.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { serveThroughPort, serviceThroughPort } from './engine-port.ts';

let engine: MessagePort;
let api: MessagePort;
let service: VolumeService;

beforeEach(() => {
  const { port1, port2 } = new MessageChannel();
  api = port1;
  engine = port2;
  service = serviceThroughPort(api);
});

afterEach(() => {
  api.close();
  engine.close();
});

test('carries answers and errors', async () => {
  serveThroughPort(engine, new MemoryVolumeService());
  const { id } = await service.createVolume({ name: 'one', sizeBytes: 1024 * 1024 });
  expect(await service.getVolume('one')).toMatchObject({ id });
  await expect(service.getVolume('two')).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
});

test('calls end with the engine, those that come later too', async () => {
  const waiting = service.info();
  engine.close();
  await expect(waiting).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await expect(service.info()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
});

test('a closed port is one that was closed on this side, too', async () => {
  const closed = once(api, 'close');
  api.close();
  await closed;
  await expect(service.info()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
});
