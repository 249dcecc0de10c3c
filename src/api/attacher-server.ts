/** Offers any DeviceService as the attacher's gRPC API; fields are checked before the service sees them. */
import { Server } from '@grpc/grpc-js';
import type { Logger } from '../base/logger.ts';
import type { DeviceService } from '../volumes/device-service.ts';
import { apiPolicy } from './api-policy.ts';
import { invalidArgument, requireInteger, requireText } from './arguments.ts';
import { deviceToWire } from './attacher-convert.ts';
import type { Endpoint } from './endpoint.ts';
import * as wire from './generated/attacher.ts';
import { addService, listen, type ListeningServer, type ServiceHandlers } from './grpc-server.ts';

const uriBytesMax = 4096;

export interface AttacherServerOptions {
  readonly endpoint: Endpoint;
  readonly service: DeviceService;
  readonly logger: Logger;
}

export async function startAttacherServer(
  options: AttacherServerOptions,
): Promise<ListeningServer> {
  const server = new Server();
  addService(server, wire.AttacherService, handlersOf(options.service), apiPolicy(options.logger));
  return await listen(server, options.endpoint);
}

function handlersOf(service: DeviceService) {
  return {
    attach: async ({ volumeId, uri, readOnly }: wire.AttachRequest) => {
      requireText('volume_id', volumeId);
      requireText('uri', uri, uriBytesMax);
      if (!/^nbd(\+unix)?:\/\//.test(uri)) {
        throw invalidArgument('uri', 'it must begin with nbd+unix:// or nbd://');
      }
      return deviceToWire(await service.attach({ volumeId, uri, readOnly }));
    },
    detach: async ({ volumeId }: wire.DetachRequest) => {
      await service.detach(requireText('volume_id', volumeId));
      return {};
    },
    resize: async ({ volumeId, sizeBytes }: wire.ResizeRequest) => {
      requireInteger('size_bytes', sizeBytes, { min: 1 });
      return deviceToWire(await service.resize(requireText('volume_id', volumeId), sizeBytes));
    },
    getDevice: async ({ volumeId }: wire.GetDeviceRequest) =>
      deviceToWire(await service.getDevice(requireText('volume_id', volumeId))),
    listDevices: async (): Promise<wire.ListDevicesResponse> => ({
      devices: (await service.listDevices()).map(deviceToWire),
    }),
  } satisfies ServiceHandlers;
}
