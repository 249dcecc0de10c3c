/** Between the attacher's Device and its message in proto/attacher.proto. Pure. */
import type { Device, DeviceState } from '../volumes/device-service.ts';
import { VolumeError } from '../volumes/errors.ts';
import * as wire from './generated/attacher.ts';

const stateToWire = {
  attached: wire.DeviceState.DEVICE_STATE_ATTACHED,
  waiting: wire.DeviceState.DEVICE_STATE_WAITING,
  broken: wire.DeviceState.DEVICE_STATE_BROKEN,
} as const satisfies Record<DeviceState, wire.DeviceState>;

const stateFromWire = new Map<wire.DeviceState, DeviceState>([
  [wire.DeviceState.DEVICE_STATE_ATTACHED, 'attached'],
  [wire.DeviceState.DEVICE_STATE_WAITING, 'waiting'],
  [wire.DeviceState.DEVICE_STATE_BROKEN, 'broken'],
]);

export function deviceToWire(device: Device): wire.Device {
  return { ...device, state: stateToWire[device.state] };
}

/** PROTOCOL_ERROR for a state that we do not know. */
export function deviceFromWire(device: wire.Device): Device {
  const state = stateFromWire.get(device.state);
  if (state === undefined) {
    throw new VolumeError(
      'PROTOCOL_ERROR',
      `device of ${device.volumeId}: its state is ${device.state}`,
    );
  }
  return { ...device, state };
}
