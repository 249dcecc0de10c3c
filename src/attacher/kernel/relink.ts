/**
 * Gives a device new sockets for those that died. The kernel answers success also when it took none (no socket is
 * dead for it), and does not tell how many it took, so the sockets' inode numbers are asked: one that only the
 * kernel held and that is gone was replaced, and one of ours that stays after our close is in use.
 */
import { transmissionFlags } from '../../nbd/protocol.ts';
import { VolumeError } from '../../volumes/errors.ts';
import type { TargetExport, SaveDetails } from '../strategy.ts';
import type { DeviceMemory } from './device-memory.ts';
import type { KernelDetails } from './kernel-details.ts';
import type { KernelTools } from './kernel-tools.ts';
import { openLinks, type Link } from './links.ts';
import type { NbdDevice } from './nbd-devices.ts';
import type { NbdMachine } from './nbd-machine.ts';

export interface RelinkRequest {
  readonly device: NbdDevice;
  readonly export: TargetExport;
  readonly details: KernelDetails;
  readonly memory: DeviceMemory;
  readonly save: SaveDetails;
}

/**
 * linked: the kernel took new links. alive: it took none, and no link that we know is dead. not-yet: it has not noticed
 * yet that a link died.
 */
export type Relinked = 'linked' | 'alive' | 'not-yet';

/** Codes as openLinks(); OUT_OF_RANGE and READ_ONLY when the export is not what the device is any more. */
export async function relink(request: RelinkRequest, tools: KernelTools): Promise<Relinked> {
  const { memory, details, device } = request;
  // Until sockets of a command that was not answered are closed, they look like ones that the kernel holds.
  await tools.lent.settle(tools.control);
  const known = inodesOf(memory.links);
  const dead = memory.links.filter((link) => link.isDead);
  const alive = memory.links.filter((link) => !dead.includes(link));
  const listed = await tools.machine.listSockets();
  const unknown = details.sockets.filter((inode) => listed.has(inode) && !known.includes(inode));
  const count = Math.max(1, dead.length + unknown.length);
  const wait = { clock: tools.clock, timeoutMs: tools.timeouts.connectMs };
  const opened = await openLinks(request.export.uri, count, wait);
  const fresh = opened.map(({ link }) => link);
  try {
    for (const { agreement } of opened) {
      const isReadOnly = (agreement.transmissionFlags & transmissionFlags.READ_ONLY) !== 0;
      requireSameExport(request, { sizeBytes: agreement.sizeBytes, isReadOnly });
    }
    const sockets = [...unknown, ...known, ...inodesOf(fresh)];
    await saveSockets(request, sockets, tools);
  } catch (error) {
    for (const link of fresh) link.close();
    throw error;
  }
  for (const link of dead) link.close();
  memory.links = alive;
  memory.missing = [...memory.missing, ...inodesOf(dead)];
  await tools.lent.during(fresh, () =>
    tools.control.reconfigure({
      index: device.index,
      identifier: device.identifier,
      sockets: fresh.map(({ fd }) => fd),
    }),
  );
  const before = [...inodesOf(dead), ...unknown].filter((inode) => listed.has(inode));
  const { taken, others } = await takeStock({ memory, before, fresh }, tools);
  // Those that the kernel does not hold any more were replaced, now or by a command whose answer was lost.
  memory.missing = memory.missing.filter((inode) => others.includes(inode));
  await saveSockets(request, [...inodesOf(memory.links), ...others], tools);
  if (taken > 0) return 'linked';
  return memory.missing.length > 0 ? 'not-yet' : 'alive';
}

/** Keeps those of `fresh` that the kernel took. `others` are sockets that it holds and of which we have nothing. */
async function takeStock(
  sockets: { memory: DeviceMemory; before: readonly string[]; fresh: readonly Link[] },
  { machine }: KernelTools,
): Promise<{ taken: number; others: string[] }> {
  const { memory, before, fresh } = sockets;
  if (before.length > 0) {
    const others = await stillListed(before, machine);
    const taken = before.length - others.length;
    memory.links = [...memory.links, ...fresh.slice(0, taken)];
    for (const link of fresh.slice(taken)) link.close();
    return { taken, others };
  }
  for (const link of fresh) link.close();
  const used = await stillListed(inodesOf(fresh), machine);
  if (used.length === 0) return { taken: 0, others: [] };
  // One that seemed to live was replaced: which one, only the kernel knows.
  const known = inodesOf(memory.links);
  memory.closeLinks();
  return { taken: used.length, others: [...(await stillListed(known, machine)), ...used] };
}

/** The list is not read at one instant and may lack a socket that is there: only what is missing twice is gone. */
async function stillListed(inodes: readonly string[], machine: NbdMachine): Promise<string[]> {
  const first = await machine.listSockets();
  if (inodes.every((inode) => first.has(inode))) return [...inodes];
  const second = await machine.listSockets();
  return inodes.filter((inode) => first.has(inode) || second.has(inode));
}

/** A device that has an identifier is found by that: a full disk must not keep it from being healed. */
async function saveSockets(
  { device, details, save }: RelinkRequest,
  sockets: readonly string[],
  { logger }: KernelTools,
): Promise<void> {
  try {
    await save({ ...details, sockets });
  } catch (error) {
    if (device.identifier === null) throw error;
    logger.warn('sockets of the device could not be recorded', { error });
  }
}

function inodesOf(links: readonly Link[]): string[] {
  return links.map(({ inode }) => inode);
}

/** An export that shrank or lost its writes would make I/O fail that the device allows. */
function requireSameExport(
  { device, export: { readOnly } }: Pick<RelinkRequest, 'device' | 'export'>,
  offered: { sizeBytes: number; isReadOnly: boolean },
): void {
  if (offered.sizeBytes < device.sizeBytes) {
    const why = `the export has ${offered.sizeBytes} bytes, and the device ${device.sizeBytes}`;
    throw new VolumeError('OUT_OF_RANGE', `reconnect the device: ${why}`);
  }
  if (offered.isReadOnly && !readOnly) {
    throw new VolumeError('READ_ONLY', 'reconnect the device: the export is read-only now');
  }
}
