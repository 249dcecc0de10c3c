/**
 * The attacher as the node role sees it: DeviceService over gRPC. Every call has a deadline; an attacher that
 * can't be reached or doesn't answer in time is UNAVAILABLE, and the work may have been done.
 */
import type { Device, DeviceService } from '../volumes/device-service.ts';
import { requireInteger } from './arguments.ts';
import { deviceFromWire } from './attacher-convert.ts';
import type { Endpoint } from './endpoint.ts';
import { AttacherService as rpc } from './generated/attacher.ts';
import { GrpcPeer } from './grpc-client.ts';

export class AttacherClient implements DeviceService {
  readonly #peer: GrpcPeer;
  readonly #timeoutMs: number;

  /** The default leaves an attacher time to give up a device that does not let go. */
  constructor(endpoint: Endpoint, options: { timeoutMs?: number } = {}) {
    this.#peer = new GrpcPeer('the attacher', endpoint);
    this.#timeoutMs = options.timeoutMs ?? 60_000;
  }

  close(): void {
    this.#peer.close();
  }

  async attach(request: { volumeId: string; uri: string; readOnly: boolean }): Promise<Device> {
    return deviceFromWire(await this.#peer.call(rpc.attach, request, this.#timeoutMs));
  }

  async detach(volumeId: string): Promise<void> {
    await this.#peer.call(rpc.detach, { volumeId }, this.#timeoutMs);
  }

  async resize(volumeId: string, sizeBytes: number): Promise<Device> {
    const request = { volumeId, sizeBytes: requireInteger('size_bytes', sizeBytes) };
    return deviceFromWire(await this.#peer.call(rpc.resize, request, this.#timeoutMs));
  }

  async getDevice(volumeId: string): Promise<Device> {
    return deviceFromWire(await this.#peer.call(rpc.getDevice, { volumeId }, this.#timeoutMs));
  }

  async listDevices(): Promise<Device[]> {
    const { devices } = await this.#peer.call(rpc.listDevices, {}, this.#timeoutMs);
    return devices.map(deviceFromWire);
  }
}
