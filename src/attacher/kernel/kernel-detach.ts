/**
 * Removes a device. Polite first: its dirty pages are written, for which a lost volumedriver is waited for and the
 * link healed. What is not written in time is lost: the link is cut, and disconnecting makes all I/O of the device
 * fail, so that nothing hangs on it.
 */
import { toVolumeError } from '../../volumes/errors.ts';
import { confirmedProbe, isGone } from '../export-probe.ts';
import type { SaveDetails, TargetExport } from '../strategy.ts';
import type { DeviceMemory } from './device-memory.ts';
import type { KernelDetails } from './kernel-details.ts';
import { healDevice, needsLook } from './kernel-heal.ts';
import type { KernelTools } from './kernel-tools.ts';
import type { NbdDevice } from './nbd-devices.ts';
import { devicePath } from './nbd-machine.ts';

export interface DetachRequest {
  readonly device: NbdDevice;
  /** Null when no record tells. */
  readonly export: TargetExport | null;
  readonly details: KernelDetails;
  readonly memory: DeviceMemory;
  readonly save: SaveDetails;
}

/** What the record says by now. */
interface Current {
  details: KernelDetails;
  readonly save: (changed: object) => Promise<void>;
}

const healEveryMs = 300;

/** Idempotent. UNAVAILABLE when the kernel does not let go of it in time; repeating may help then. */
export async function detachDevice(request: DetachRequest, tools: KernelTools): Promise<void> {
  const { device, memory } = request;
  const path = devicePath(device.index);
  const current: Current = {
    details: request.details,
    save: async (changed) => {
      current.details = { ...current.details, ...changed };
      await request.save(current.details);
    },
  };
  if (!(await isWritten(request, current, tools))) memory.cutLinks();
  // While somebody holds it open, older kernels would connect again what is disconnected: nobody is to try.
  await current.save({ failed: request.details.failed ?? 'it was detached' });
  await tools.own.disconnect(device);
  const left = await tools.machine.readDevice(device.index);
  if (left !== null && left.pid === device.pid && left.pid !== null && !memory.isHeld)
    tools.logger.info('device stays until its last user closes it', { device: path });
}

/** False when nobody can say that the server has all: the link is to be cut then. */
async function isWritten(
  request: DetachRequest,
  current: Current,
  tools: KernelTools,
): Promise<boolean> {
  const { device, details, memory } = request;
  if (details.failed !== null || memory.isHeld) return false;
  if (request.export?.readOnly === true) return true;
  if (!(await tools.own.isConnected(device))) return true;
  if (request.export !== null && (await isRefused(request.export.uri, tools))) {
    tools.logger.warn('export is refused, device is aborted', { device: devicePath(device.index) });
    return false;
  }
  const written = new AbortController();
  const healing = healUntil(written.signal, { request, current, tools });
  try {
    await flush(device, tools);
    return true;
  } catch (error) {
    const fields = { device: devicePath(device.index), error };
    tools.logger.warn('device could not be flushed, unwritten data is lost', fields);
    return false;
  } finally {
    written.abort();
    await healing;
  }
}

async function isRefused(uri: string, { clock, timeouts }: KernelTools): Promise<boolean> {
  return isGone(await confirmedProbe(uri, { clock, timeoutMs: timeouts.probeMs }));
}

/** blockdev writes what is dirty, also of a filesystem that is still mounted; sync has the server store it. */
async function flush(device: NbdDevice, tools: KernelTools): Promise<void> {
  const { clock, runCommand, timeouts } = tools;
  const path = devicePath(device.index);
  const deadlineMs = clock.monotonicMs() + timeouts.flushMs;
  await runCommand('blockdev', ['--flushbufs', path], { timeoutMs: timeouts.flushMs });
  const timeoutMs = Math.max(1, deadlineMs - clock.monotonicMs());
  await runCommand('sync', [path], { timeoutMs });
}

/** The volume is locked, so that nobody else can heal the link that the writing waits for. Never rejects. */
async function healUntil(
  signal: AbortSignal,
  { request, current, tools }: { request: DetachRequest; current: Current; tools: KernelTools },
): Promise<void> {
  const { device, export: offered, memory } = request;
  const { clock, logger } = tools;
  if (offered === null) return;
  while (!signal.aborted) {
    if (needsLook(memory, current.details.sockets, clock.monotonicMs())) {
      try {
        await healDevice({ device, export: offered, memory, ...current }, tools);
      } catch (error) {
        logger.debug('link could not be healed', { error: toVolumeError(error, 'heal') });
      }
    }
    await clock.sleep(healEveryMs, signal).catch(() => undefined);
  }
}
