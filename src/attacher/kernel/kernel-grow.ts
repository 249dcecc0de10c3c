/** Makes a device larger with users on it, within limits: see request-limits.ts. */
import { VolumeError } from '../../volumes/errors.ts';
import type { DeviceMemory } from './device-memory.ts';
import { openOnce, sectorBytes } from './kernel-attach.ts';
import type { KernelTools } from './kernel-tools.ts';
import { devicePath } from './nbd-machine.ts';
import { askEarly, letRequestsWait, limitRequests, type LimitedDevice } from './request-limits.ts';

export interface GrowRequest {
  readonly device: LimitedDevice;
  readonly memory: DeviceMemory;
  readonly exportBytes: number;
}

/**
 * `exportBytes` is what the server offers; the device gets its whole sectors. UNAVAILABLE when requests are not
 * answered, or the kernel does not take the size. After any error the limits of requests may still be there.
 */
export async function growDevice(
  { device, memory, exportBytes }: GrowRequest,
  tools: KernelTools,
): Promise<void> {
  const { control, machine } = tools;
  const { index, identifier } = device;
  const sizeBytes = Math.floor(exportBytes / sectorBytes) * sectorBytes;
  memory.requestsWait = false;
  memory.asksEarly = false;
  try {
    await limitRequests(device, tools);
    const size = { sizeBytes, blockSizeBytes: sectorBytes };
    await control.reconfigure({ index, identifier, size });
  } finally {
    await letRequestsWait(device, tools);
  }
  memory.requestsWait = true;
  await askEarly(device, memory, tools);
  const shown = (await machine.readDevice(index))?.sizeBytes ?? 0;
  if (shown < sizeBytes) {
    const why = `${devicePath(index)} does not take the new size`;
    throw new VolumeError('UNAVAILABLE', `grow the device: ${why}`);
  }
  await openOnce(index, tools);
}
