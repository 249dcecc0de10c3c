/**
 * Takes a volume's loop device, daemon and mount apart, in this order, because the kernel can tell a loop device's
 * backing file only while it is mounted. Polite first: dirty pages are written, the daemon ends by itself. What
 * does not follow within its time is aborted by killing the daemon, after which all I/O of the device fails and
 * nothing can hang on it any more.
 */
import type { Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import { commandErrorOf, type RunCommand } from '../../volumes/command.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { mountsOn } from '../mounts.ts';
import { findDaemons, stopDaemon, type FuseFolder } from './fuse-daemon.ts';
import type { FuseDetails, FuseTimeouts } from './fuse-details.ts';
import type { LoopDevices } from './loop-devices.ts';

export interface DetachRequest {
  readonly folder: FuseFolder;
  readonly details: FuseDetails;
  readonly program: string;
  readonly readOnly: boolean;
}

export interface DetachTools {
  readonly loops: LoopDevices;
  readonly timeouts: FuseTimeouts;
  readonly runCommand: RunCommand;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whether the server refuses the export for good, so that waiting for it is in vain. */
  readonly refused: () => Promise<boolean>;
}

/** Idempotent. UNAVAILABLE when something cannot be removed even by force; repeating may help then. */
export async function detachFuse(request: DetachRequest, tools: DetachTools): Promise<void> {
  const { folder, details } = request;
  const backing = { file: folder.mountpoint, deviceNumber: details.deviceNumber };
  let aborted = false;
  for (const device of await tools.loops.find(backing, details.device)) {
    if (!aborted && !(await flush(device, request, tools))) {
      aborted = true;
      await stopDaemons(request, tools, true);
    }
    if (await tools.loops.release(device, backing, tools.timeouts.releaseMs)) continue;
    tools.logger.warn('device did not let go and is aborted', { device });
    aborted = true;
    await stopDaemons(request, tools, true);
    if (await tools.loops.release(device, backing, tools.timeouts.releaseMs)) continue;
    // Marked for removal: the kernel removes it when its last user, whose I/O fails now, closes it.
    tools.logger.warn('device stays until its last user closes it', { device });
  }
  await stopDaemons(request, tools, aborted);
  await unmount(request, tools);
}

/** Writes the device's dirty pages. False when that can't be: the daemon is then to be killed. */
async function flush(device: string, request: DetachRequest, tools: DetachTools): Promise<boolean> {
  const daemons = await findDaemons(request.folder, request.program, request.details.daemon);
  if (daemons.length === 0 || request.readOnly) return true;
  if (await tools.refused()) {
    tools.logger.warn('export is refused, device is aborted', { device });
    return false;
  }
  try {
    await tools.runCommand('blockdev', ['--flushbufs', device], {
      timeoutMs: tools.timeouts.flushMs,
    });
    return true;
  } catch (error) {
    const failure = commandErrorOf(error);
    if (failure === undefined) throw error;
    tools.logger.warn('device could not be flushed, unwritten data is lost', { device, error });
    return failure.failure !== 'timed-out';
  }
}

async function stopDaemons(
  request: DetachRequest,
  tools: DetachTools,
  abort: boolean,
): Promise<void> {
  const daemons = await findDaemons(request.folder, request.program, request.details.daemon);
  for (const daemon of daemons) {
    const politeMs = tools.timeouts.stopMs;
    if (await stopDaemon(daemon, { clock: tools.clock, abort, politeMs })) continue;
    const why = `the FUSE daemon with pid ${daemon.pid} does not die`;
    throw new VolumeError('UNAVAILABLE', `detach: ${why}`);
  }
}

/** A killed daemon leaves its mount behind; umount must not ask the dead filesystem anything. */
async function unmount(request: DetachRequest, tools: DetachTools): Promise<void> {
  const { mountpoint } = request.folder;
  for (let attempt = 0; attempt < 5; attempt++) {
    if ((await mountsOn(mountpoint)).length === 0) return;
    const args = ['--lazy', '--internal-only', '--no-canonicalize', mountpoint];
    try {
      await tools.runCommand('umount', args, { timeoutMs: tools.timeouts.commandMs });
    } catch (error) {
      if (commandErrorOf(error) === undefined) throw error;
      tools.logger.warn('unmounting failed', { mountpoint, error });
    }
  }
  if ((await mountsOn(mountpoint)).length > 0) {
    throw new VolumeError('UNAVAILABLE', `detach: ${mountpoint} stays mounted`);
  }
}
