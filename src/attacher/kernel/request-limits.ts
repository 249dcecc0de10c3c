/**
 * How long the kernel lets requests of a device wait. Ordinarily for an answer without limit, and for a link for as
 * long as a volumedriver may be away. While the device's size is set, for seconds only: newer kernels (6.12, 7.3)
 * stop new requests for that, wait for those under way, and carry out no other command to any NBD device meanwhile. If
 * the link died in this moment, a request that waits without limit would hold all of that up until a reboot.
 *
 * The time after which the kernel asks about a request is set through sysfs when it is short: some kernels (6.12) wait
 * for all requests under way for that as well, so it is done on working links only, and not waited for too long.
 */
import type { Clock } from '../../base/clock.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { abandonAfter, waitUntil } from '../waiting.ts';
import type { DeviceMemory } from './device-memory.ts';
import type { KernelTools } from './kernel-tools.ts';
import type { NbdDevice } from './nbd-devices.ts';
import { devicePath } from './nbd-machine.ts';

/**
 * The kernel asks about a request after so long; a request keeps the time that it started with. For a link that was
 * replaced, that is when the request is sent again; for one that only stalls, it does nothing but write to the log.
 */
const askEarlyMs = 2000;
/** The same where it is not set, and while requests are limited: then such a request's link is taken for dead. */
const askLateMs = 30_000;
const limits = { requestSeconds: askLateMs / 1000, deadSeconds: 10 };
/** How long is waited for a moment without requests. */
const settleMs = 5000;
const sysfsMs = 2000;

export interface LimitedDevice extends Pick<NbdDevice, 'index' | 'identifier'> {
  /** How many links it was made with. */
  readonly connections: number;
}

/** After this, the kernel asks late about requests: see askEarly(). Codes as NbdControl.reconfigure(). */
export async function letRequestsWait(device: LimitedDevice, tools: KernelTools): Promise<void> {
  const { index, identifier } = device;
  const timeouts = { requestSeconds: 0, deadSeconds: tools.deadTimeoutSeconds };
  await tools.control.reconfigure({ index, identifier, timeouts });
}

/** Mends what a process left that ended while requests were limited, or before it had the kernel ask early. */
export async function mendLimits(
  device: LimitedDevice,
  memory: DeviceMemory,
  tools: KernelTools,
): Promise<void> {
  const { machine, clock, logger } = tools;
  try {
    const ioTimeoutMs = await bySysfs(machine.readIoTimeout(device.index), clock);
    memory.asksEarly = ioTimeoutMs === askEarlyMs;
  } catch (error) {
    memory.asksEarly = false;
    logger.warn('the limits of requests are not known', { index: device.index, error });
  }
  if (!memory.asksEarly) await letRequestsWait(device, tools);
  memory.requestsWait = true;
}

/** On a link that works. With several links, the kernel would take one for dead that is only slow. */
export async function askEarly(
  { index, connections }: Pick<LimitedDevice, 'index' | 'connections'>,
  memory: DeviceMemory,
  { machine, clock, logger }: KernelTools,
): Promise<void> {
  if (connections > 1 || memory.asksEarly) return;
  try {
    await bySysfs(machine.setIoTimeout(index, askEarlyMs), clock);
    memory.asksEarly = true;
  } catch (error) {
    // It works, but I/O goes on later after a volumedriver's restart.
    logger.warn('requests of a lost link are sent again after 30 s only', { index, error });
  }
}

/** It may hang for as long as the requests of the device do, reading as well while somebody else writes. */
async function bySysfs<T>(access: Promise<T>, clock: Clock): Promise<T> {
  return await abandonAfter(clock, { timeoutMs: sysfsMs, what: 'use sysfs' }, access);
}

/** UNAVAILABLE when the server does not answer, so that a limit would make requests fail. */
export async function limitRequests(device: LimitedDevice, tools: KernelTools): Promise<void> {
  const { index, identifier } = device;
  await letRequestsWait(device, tools);
  await askedLate(index, tools);
  await tools.control.reconfigure({ index, identifier, timeouts: limits });
}

/**
 * Requests that are to be asked about early are answered: there was a moment without requests. Under a load without
 * such a moment, that as many were answered in all the time as were under way must do.
 */
async function askedLate(index: number, { machine, clock }: KernelTools): Promise<void> {
  const first = await machine.readProgress(index);
  let last = first;
  const options = { timeoutMs: settleMs, everyMs: 5 };
  const settled = await waitUntil(clock, options, async () => {
    last = await machine.readProgress(index);
    return last.inFlight === 0;
  });
  if (settled || last.completed - first.completed >= first.inFlight) return;
  const why = `requests of ${devicePath(index)} are not answered`;
  throw new VolumeError('UNAVAILABLE', `grow the device: ${why}`);
}
