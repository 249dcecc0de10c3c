import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../base/logger.ts';
import { deviceStates, type Device, type DeviceService } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import { AttacherClient } from './attacher-client.ts';
import { startAttacherServer } from './attacher-server.ts';
import type { Endpoint } from './endpoint.ts';
import type { ListeningServer } from './grpc-server.ts';

/** One device per volume, without any device behind it. */
class MemoryDeviceService implements DeviceService {
  readonly devices = new Map<string, Device>();

  async attach(request: { volumeId: string; uri: string; readOnly: boolean }): Promise<Device> {
    await Promise.resolve();
    const existing = this.devices.get(request.volumeId);
    if (existing !== undefined) {
      if (existing.uri === request.uri && existing.readOnly === request.readOnly) return existing;
      throw new VolumeError(
        'ALREADY_EXISTS',
        `attach ${request.volumeId}: it is attached from ${existing.uri}`,
      );
    }
    const device: Device = {
      ...request,
      path: `/dev/loop${this.devices.size}`,
      sizeBytes: 4096,
      state: deviceStates[this.devices.size % deviceStates.length] ?? 'attached',
      strategy: 'fuse',
      reason: '',
    };
    this.devices.set(request.volumeId, device);
    return device;
  }

  async detach(volumeId: string): Promise<void> {
    await Promise.resolve();
    this.devices.delete(volumeId);
  }

  async resize(volumeId: string, sizeBytes: number): Promise<Device> {
    const device = { ...(await this.getDevice(volumeId)), sizeBytes };
    this.devices.set(volumeId, device);
    return device;
  }

  async getDevice(volumeId: string): Promise<Device> {
    await Promise.resolve();
    const device = this.devices.get(volumeId);
    if (device === undefined)
      throw new VolumeError('PATH_NOT_FOUND', `device of ${volumeId}: not attached`);
    return device;
  }

  listDevices(): Promise<Device[]> {
    return Promise.resolve([...this.devices.values()]);
  }
}

let directory: string;
let server: ListeningServer;
let client: AttacherClient;
let devices: MemoryDeviceService;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'attacher-api-'));
  const endpoint: Endpoint = { kind: 'unix', path: join(directory, 'attacher.sock') };
  devices = new MemoryDeviceService();
  server = await startAttacherServer({ endpoint, service: devices, logger: silentLogger });
  client = new AttacherClient(endpoint, { timeoutMs: 2000 });
});

afterEach(async () => {
  client.close();
  await server.close(200);
  await rm(directory, { recursive: true, force: true });
});

const request = { volumeId: 'b.v', uri: 'nbd+unix:///v%231?socket=/run/nbd.sock', readOnly: false };

test('devices in every state arrive as they are', async () => {
  expect(await client.listDevices()).toEqual([]);
  for (const volumeId of ['a', 'b', 'c']) {
    const device = await client.attach({ ...request, volumeId });
    expect(device).toEqual(devices.devices.get(volumeId));
    expect(await client.getDevice(volumeId)).toEqual(device);
  }
  expect((await client.listDevices()).map((device) => device.state)).toEqual([...deviceStates]);
});

test('calls can be repeated, and errors keep their code', async () => {
  expect(await client.attach(request)).toEqual(await client.attach(request));
  await expect(client.attach({ ...request, readOnly: true })).rejects.toMatchObject({
    code: 'ALREADY_EXISTS',
  });
  expect((await client.resize('b.v', 8192)).sizeBytes).toBe(8192);
  await client.detach('b.v');
  await client.detach('b.v');
  await expect(client.getDevice('b.v')).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
  await expect(client.resize('b.v', 8192)).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
});

test.each<[string, () => Promise<unknown>]>([
  ['no volume', () => client.detach('')],
  ['no uri', () => client.attach({ ...request, uri: '' })],
  ['a uri that is none of NBD', () => client.attach({ ...request, uri: 'http://a/b' })],
  ['no size', () => client.resize('b.v', 0)],
  ['half a byte', () => client.resize('b.v', 1.5)],
])('a request with %s is INVALID_ARGUMENT', async (_, call) => {
  await expect(call()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
});

test('an attacher that is not there is UNAVAILABLE', async () => {
  const nobody = new AttacherClient(
    { kind: 'unix', path: join(directory, 'nobody.sock') },
    { timeoutMs: 2000 },
  );
  await expect(nobody.listDevices()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  nobody.close();
});
