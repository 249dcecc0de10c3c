/**
 * Writes what the kernel still holds of a staged volume to its device, before anything is taken apart: unmounting and
 * detaching use force after their time limits, and what is dirty must not meet it while the device can still take it,
 * be it slow or waiting for its volumedriver. Force is for devices that will never take anything again.
 */
import { access, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { hasErrno } from '../base/errno.ts';
import type { Device, DeviceState } from '../volumes/device-service.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import { deviceNumber } from './device-numbers.ts';
import type { UnmountAdvice } from './mounts.ts';
import { findDevice, type NodeParts } from './stage-volume.ts';

/** One call's share of the work: each less than the two minutes after which kubelet gives a call up. */
export interface DrainLimits {
  /** For writing what is dirty. */
  readonly writeBackMs: number;
  /** For a waiting device's volumedriver to come back. */
  readonly waitMs: number;
  /** For a filesystem that nobody sees any more to end. */
  readonly endMs: number;
}

export const defaultDrainLimits: DrainLimits = {
  writeBackMs: 60_000,
  waitMs: 60_000,
  endMs: 5_000,
};

const pollMs = 500;

interface Place {
  readonly volumeId: string;
  readonly path: string;
}

/**
 * written: nothing is left in the kernel. failed: what is left met an error on a device that works otherwise.
 * lost: the device does not take anything and never will.
 */
export type Drained = 'written' | 'failed' | 'lost';

/**
 * unknown: there is a device, or may be, of which the attacher cannot read what it wrote down. It neither heals such a
 * one nor gives it up: only a detach helps.
 */
export type Found = Device | 'none' | 'unknown';

export async function lookUp({ devices }: NodeParts, volumeId: string): Promise<Found> {
  try {
    const device = await findDevice(devices, volumeId);
    return device?.state === 'waiting' && device.path === '' ? 'unknown' : (device ?? 'none');
  } catch (error) {
    if (hasCode(error, 'CORRUPT')) return 'unknown';
    throw error;
  }
}

/**
 * Writes everything that the kernel holds of the volume, mounted at `path` or not at all. Waits for a device that
 * waits. UNAVAILABLE when that, or the writing, takes longer than one call may: the caller repeats.
 */
export async function drain(parts: NodeParts, { volumeId, path }: Place): Promise<Drained> {
  const device = await awaitVolumedriver(parts, volumeId);
  if (device === 'none') return 'written';
  if (device === 'unknown') return await drainUnknown(parts, { volumeId, path });
  if (device.readOnly) return 'written';
  if (device.state === 'broken') return 'lost';
  const result = await writeBack(parts, { volumeId, device, path });
  if (result === 'written') return 'written';
  // What did not go well may be the first sign of what the attacher knows by now.
  const now = await lookUp(parts, volumeId);
  if (isWaitingWriter(now)) throw stillWaiting(volumeId, now);
  return result === 'stuck' || isBroken(now) ? 'lost' : 'failed';
}

/** Read-only devices hold nothing that is worth a wait. */
async function awaitVolumedriver(parts: NodeParts, volumeId: string): Promise<Found> {
  const giveUpMs = systemClock.monotonicMs() + parts.drainLimits.waitMs;
  for (;;) {
    const device = await lookUp(parts, volumeId);
    if (!isWaitingWriter(device)) return device;
    if (systemClock.monotonicMs() > giveUpMs) throw stillWaiting(volumeId, device);
    await systemClock.sleep(pollMs);
  }
}

type WaitingWriter = Device & { readonly state: 'waiting'; readonly readOnly: false };

function isWaitingWriter(device: Found): device is WaitingWriter {
  return typeof device === 'object' && device.state === 'waiting' && !device.readOnly;
}

function isBroken(device: Found): boolean {
  return typeof device === 'object' && device.state === 'broken';
}

/** What can be done without knowing the device: its filesystem, if there is one, knows it. */
async function drainUnknown(parts: NodeParts, { volumeId, path }: Place): Promise<Drained> {
  parts.logger.warn('the attacher cannot tell the state of the device', { volumeId });
  if ((await parts.mounts.at(path)).length === 0) return 'failed';
  return (await takesWrites(parts, { volumeId, path })) ? 'written' : 'lost';
}

/**
 * To be asked after drain() and unmounting, before the device goes: a filesystem lives on without a mount while a
 * process has a file of it open, another mount namespace shows it, or an unmount is still writing. VOLUME_IN_USE
 * then, UNAVAILABLE for a device that waits now.
 */
export async function checkEnded(
  parts: NodeParts,
  { volumeId, device, drained }: { volumeId: string; device: Found; drained: Drained },
): Promise<void> {
  if (typeof device === 'string' || drained === 'lost') return;
  if (isWaitingWriter(device)) throw stillWaiting(volumeId, device);
  if (drained === 'failed' || device.readOnly || device.state === 'broken') return;
  const giveUpMs = systemClock.monotonicMs() + parts.drainLimits.endMs;
  while (await hasFilesystem(device)) {
    if (systemClock.monotonicMs() > giveUpMs) {
      throw new VolumeError(
        'VOLUME_IN_USE',
        `unstage volume ${volumeId}: its filesystem on ${device.path} is unmounted and still in use: a process has a ` +
          'file of it open, another mount namespace shows it, or it is still being written',
      );
    }
    await systemClock.sleep(pollMs);
  }
}

/** Whether the kernel runs a filesystem on the device, mounted anywhere or not: each has a folder in sysfs. */
async function hasFilesystem(device: Device): Promise<boolean> {
  for (const kind of ['ext4', 'xfs']) {
    try {
      await access(`/sys/fs/${kind}/${basename(device.path)}`);
      return true;
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw error;
    }
  }
  return false;
}

/** stuck: the device took nothing in all the time that it was given. */
type WriteBack = 'written' | 'failed' | 'stuck';

/** For a device that is attached. UNAVAILABLE when it takes longer and the device makes progress. */
async function writeBack(
  parts: NodeParts,
  { volumeId, device, path }: Place & { device: Device },
): Promise<WriteBack> {
  const number = await deviceNumber(device.path);
  const mounted = (await parts.mounts.at(path)).at(-1)?.device === number;
  const args = mounted ? ['--file-system', path] : [device.path];
  const before = await requestsDone(number);
  try {
    await parts.run('sync', args, { timeoutMs: parts.drainLimits.writeBackMs });
    return 'written';
  } catch (error) {
    if (hasCode(error, 'UNAVAILABLE') && (await requestsDone(number)) !== before) {
      throw new VolumeError(
        'UNAVAILABLE',
        `write back volume ${volumeId}: what was written is still on its way to the device`,
        { cause: error },
      );
    }
    parts.logger.warn('what was written does not reach the device', { volumeId, error });
    return hasCode(error, 'UNAVAILABLE') ? 'stuck' : 'failed';
  }
}

/**
 * For somebody who has to unmount `path`. With `drained`, the path is the last one of the volume: a device that waits
 * is then never taken from under what is still to be written.
 */
export function adviceForUnmount(
  parts: NodeParts,
  { volumeId, path, drained }: Place & { drained?: Drained },
): UnmountAdvice {
  return {
    deviceState: async () =>
      drained === 'lost' ? 'broken' : await stateUnder(parts, { volumeId, path }),
    beforeLazy: async (why) => {
      if (drained !== undefined && drained !== 'lost') {
        const device = await lookUp(parts, volumeId);
        if (isWaitingWriter(device)) throw stillWaiting(volumeId, device);
      }
      parts.logger.warn('unmounting lazily', { volumeId, path, why });
    },
  };
}

/**
 * The state of the device under a mount that a process uses: `broken`, too, where the device takes nothing although it
 * says that it works, and where the mount shows a device that the volume does not have any more. UNAVAILABLE while
 * what is dirty is being written.
 */
async function stateUnder(parts: NodeParts, { volumeId, path }: Place): Promise<DeviceState> {
  const device = await lookUp(parts, volumeId);
  if (isBroken(device)) return 'broken';
  if (await isOnFormerDevice(parts, { volumeId, path, device })) return 'broken';
  if (typeof device === 'string') return 'attached'; // nothing is known against what is mounted
  if (device.state === 'waiting' || device.readOnly) return device.state;
  const stuck = (await writeBack(parts, { volumeId, device, path })) === 'stuck';
  return stuck ? 'broken' : 'attached';
}

/**
 * Whether a device that was replaced under its users is still mounted here. Its filesystem does not tell: it reads what
 * is cached. Only paths that this driver has on record for the volume are judged.
 */
async function isOnFormerDevice(
  parts: NodeParts,
  { volumeId, path, device }: Place & { device: Found },
): Promise<boolean> {
  const record = await parts.records.load(volumeId);
  if (record?.use.kind !== 'mount') return false;
  if (![record.stagingPath, ...record.targets.map((target) => target.path)].includes(path)) {
    return false;
  }
  const top = (await parts.mounts.at(path)).at(-1);
  if (top === undefined) return false;
  if (typeof device === 'object') return top.device !== (await deviceNumber(device.path));
  // The attacher cannot say: then a device that still takes what is written is left to its users.
  return !(await takesWrites(parts, { volumeId, path }));
}

async function takesWrites(parts: NodeParts, { volumeId, path }: Place): Promise<boolean> {
  try {
    await parts.run('sync', ['--file-system', path], { timeoutMs: parts.drainLimits.writeBackMs });
    return true;
  } catch (error) {
    parts.logger.warn('a mount of an unknown device takes nothing', { volumeId, path, error });
    return false;
  }
}

function stillWaiting(volumeId: string, device: Device): VolumeError {
  return new VolumeError(
    'UNAVAILABLE',
    `volume ${volumeId}: its device waits for the volumedriver; what was written is still on its way; ` +
      `it stays until the volumedriver is back or the attacher gives the device up: ${device.reason}`,
  );
}

/** Null without a device. */
async function requestsDone(number: string): Promise<string | null> {
  try {
    return writesDone(await readFile(`/sys/dev/block/${number}/stat`, 'utf8'));
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return null;
    throw error;
  }
}

/**
 * What changes with each request that a device completes for a writer, in the kernel's block layer statistics
 * (Documentation/block/stat): writes, sectors written, discards (4.18) and flushes (5.5), as fields 5, 7, 12 and 16.
 */
export function writesDone(stat: string): string {
  const fields = stat.trim().split(/\s+/);
  return [4, 6, 11, 15].map((field) => fields[field] ?? '').join(' ');
}
