/**
 * Makes a device work again that lost its volumedriver, and ends one for good. What waits in the kernel is sent again
 * on the new link; nothing here makes it fail but giveUp().
 */
import { describeError } from '../../base/logger.ts';
import { hasCode } from '../../volumes/errors.ts';
import { confirmedProbe, troubleOf } from '../export-probe.ts';
import type { Inspection } from '../strategy.ts';
import type { DeviceMemory } from './device-memory.ts';
import type { KernelTools } from './kernel-tools.ts';
import type { NbdDevice } from './nbd-devices.ts';
import { devicePath } from './nbd-machine.ts';
import { askEarly, mendLimits } from './request-limits.ts';
import { relink, type RelinkRequest } from './relink.ts';

/** A link that was found dead may not be dead for the kernel yet: it is asked so often. */
const attempts = 5;
const betweenAttemptsMs = 100;

/**
 * Whether a device needs a look: another process may have ended while its requests were limited, a link of ours is dead,
 * the kernel told of one, or there are links of another process that were not looked at for a while.
 */
export function needsLook(
  memory: DeviceMemory,
  sockets: readonly string[],
  nowMs: number,
): boolean {
  if (!memory.requestsWait || memory.isReported || memory.missing.length > 0) return true;
  if (memory.links.some((link) => link.isDead)) return true;
  return hasUnknownLinks(memory, sockets) && nowMs >= memory.recheckAtMs;
}

/** Whether the kernel may have links of which we have no descriptors. */
export function hasUnknownLinks(memory: DeviceMemory, sockets: readonly string[]): boolean {
  const known = new Set(memory.links.map(({ inode }) => inode));
  return known.size === 0 || sockets.some((inode) => !known.has(inode));
}

/** One attempt. Rejects only when the kernel does not do its part. */
export async function healDevice(request: RelinkRequest, tools: KernelTools): Promise<Inspection> {
  const { device, memory } = request;
  const { clock, timeouts } = tools;
  const wait = { clock, timeoutMs: timeouts.probeMs };
  const limited = { ...device, connections: request.details.connections };
  if (!memory.requestsWait) await mendLimits(limited, memory, tools);
  const probe = await confirmedProbe(request.export.uri, wait);
  const trouble = troubleOf(probe);
  if (trouble !== null) {
    if (trouble.state === 'waiting' && (await stillWorks(request, tools)))
      return stateOf(device, 'attached', '');
    return stateOf(device, trouble.state, trouble.reason);
  }
  try {
    for (let attempt = 0; attempt < attempts; attempt++) {
      if (attempt > 0) await clock.sleep(betweenAttemptsMs);
      memory.isReported = false;
      const relinked = await relink(request, tools);
      if (relinked === 'not-yet') continue;
      await askEarly(limited, memory, tools);
      memory.recheckAtMs = clock.monotonicMs() + timeouts.recheckMs;
      return { ...stateOf(device, 'attached', ''), healed: relinked === 'linked' };
    }
  } catch (error) {
    memory.isReported = true;
    const isOther = hasCode(error, 'OUT_OF_RANGE') || hasCode(error, 'READ_ONLY');
    return stateOf(device, isOther ? 'broken' : 'waiting', describeError(error));
  }
  memory.isReported = true;
  return stateOf(device, 'waiting', 'the kernel does not take the new link yet');
}

/**
 * Links of which we have no descriptors may work although the server accepts no new ones. What was answered since the
 * last look was answered on them.
 */
async function stillWorks(
  { device, details, memory }: RelinkRequest,
  { machine }: KernelTools,
): Promise<boolean> {
  if (!hasUnknownLinks(memory, details.sockets)) return false;
  const { completed } = await machine.readProgress(device.index);
  const before = memory.completed;
  memory.completed = completed;
  return before !== null && completed > before;
}

/**
 * Lets all I/O of the device fail, and then holds it open, so that a path to it leads to no other volume. Links are cut
 * first, since the kernel would wait for a send that waits for the server. Opening comes last: on a device without a
 * link it may wait, for partitions to be read, until the device is disconnected. No device is made in between.
 */
export async function giveUp(
  device: NbdDevice,
  memory: DeviceMemory,
  tools: KernelTools,
): Promise<void> {
  memory.cutLinks();
  await tools.indexes.run(async () => {
    await tools.own.disconnect(device);
    await memory.hold(device.index, tools);
  });
  memory.closeLinks();
}

export function stateOf(
  { index, sizeBytes }: NbdDevice,
  state: Inspection['state'],
  reason: string,
): Inspection {
  return { path: devicePath(index), sizeBytes, state, reason };
}
