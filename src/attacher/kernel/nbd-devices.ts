/** What sysfs shows of the kernel's NBD devices. It changes at any time: every file may be gone at the next look. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hasErrno } from '../../base/errno.ts';
import { toVolumeError, VolumeError } from '../../volumes/errors.ts';

const sysBlock = '/sys/block';
const sectorBytes = 512;

export interface NbdDevice {
  readonly index: number;
  /**
   * What its connector gave as BACKEND_IDENTIFIER; null when it gave none, the kernel knows none, or nobody uses the
   * device.
   */
  readonly identifier: string | null;
  /**
   * The thread (not the process) that connected it, by its number in the first PID namespace; null when nobody uses
   * the device.
   */
  readonly pid: number | null;
  readonly sizeBytes: number;
}

/** By their index. INTERNAL when sysfs cannot be read. */
export async function listNbdDevices(root = sysBlock): Promise<NbdDevice[]> {
  let names: string[];
  try {
    names = await readdir(root);
  } catch (error) {
    throw toVolumeError(error, 'list the block devices');
  }
  const indexes = names
    .map((name) => /^nbd(0|[1-9]\d*)$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
  const devices: NbdDevice[] = [];
  for (const index of indexes) {
    const device = await readNbdDevice(index, root);
    if (device !== null) devices.push(device);
  }
  return devices;
}

/** Null when there is no such device. */
export async function readNbdDevice(index: number, root = sysBlock): Promise<NbdDevice | null> {
  const folder = join(root, `nbd${index}`);
  const sectors = parseCount(await readAttribute(join(folder, 'size')));
  if (sectors === null || !Number.isSafeInteger(sectors * sectorBytes)) return null;
  const identifier = await readAttribute(join(folder, 'backend'));
  const pid = parseCount(await readAttribute(join(folder, 'pid')));
  return {
    index,
    identifier: identifier === '' ? null : identifier,
    pid: pid === 0 ? null : pid,
    sizeBytes: sectors * sectorBytes,
  };
}

/** How many partitions the module makes room for on each device; null when it does not tell. */
export async function maxPart(
  path = '/sys/module/nbd/parameters/max_part',
): Promise<number | null> {
  return parseCount(await readAttribute(path));
}

/**
 * How long the block layer waits for an answer before it asks the driver about a request. Counts for requests that
 * start later. INTERNAL when sysfs refuses.
 */
export async function setIoTimeout(
  index: number,
  timeoutMs: number,
  root = sysBlock,
): Promise<void> {
  try {
    await writeFile(join(root, `nbd${index}`, 'queue/io_timeout'), `${timeoutMs}`, { flag: 'r+' });
  } catch (error) {
    throw toVolumeError(error, `set the timeout of nbd${index}`);
  }
}

/** Requests of a device: how many are under way, and how many were answered since it was made. */
export interface NbdProgress {
  readonly inFlight: number;
  readonly completed: number;
}

/** From the block layer's files inflight and stat (Documentation/block/stat.rst). INTERNAL when there are none. */
export async function readNbdProgress(index: number, root = sysBlock): Promise<NbdProgress> {
  const folder = join(root, `nbd${index}`);
  const inFlight = parseCounts(await readAttribute(join(folder, 'inflight')));
  const counts = parseCounts(await readAttribute(join(folder, 'stat')));
  if (inFlight.length < 2 || counts.length < 11)
    throw new VolumeError('INTERNAL', `read the requests of nbd${index}: sysfs does not tell`);
  // Reads, writes, and where the kernel has them, discards and flushes.
  const completed = [0, 4, 11, 15].reduce((sum, at) => sum + (counts[at] ?? 0), 0);
  return { inFlight: inFlight.reduce((sum, count) => sum + count, 0), completed };
}

function parseCounts(text: string | null): number[] {
  const words = (text ?? '').trim().split(/\s+/);
  return words.map((word) => parseCount(word) ?? NaN).filter((count) => !Number.isNaN(count));
}

/** In milliseconds; null when the device is gone, or the kernel does not tell. */
export async function readIoTimeout(index: number, root = sysBlock): Promise<number | null> {
  return parseCount(await readAttribute(join(root, `nbd${index}`, 'queue/io_timeout')));
}

function parseCount(text: string | null): number | null {
  if (text === null || !/^\d+$/.test(text)) return null;
  const count = Number(text);
  return Number.isSafeInteger(count) ? count : null;
}

/** Without the line break that sysfs adds; null when there is no such file, or no longer. */
async function readAttribute(path: string): Promise<string | null> {
  try {
    const text = await readFile(path, 'utf8');
    return text.endsWith('\n') ? text.slice(0, -1) : text;
  } catch (error) {
    if (['ENOENT', 'ENODEV', 'ENOTDIR'].some((errno) => hasErrno(error, errno))) return null;
    throw toVolumeError(error, `read ${path}`);
  }
}
