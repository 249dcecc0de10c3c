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
    await request.save({ ...details, sockets });
  } catch (error) {
    for (const link of fresh) link.close();
    throw error;
  }
  for (const link of dead) link.close();
  memory.links = alive;
  memory.missing += dead.length;
  await tools.lent.during(fresh, () =>
    tools.control.reconfigure({
      index: device.index,
      identifier: device.identifier,
      sockets: fresh.map(({ fd }) => fd),
    }),
  );
  const before = [...inodesOf(dead), ...unknown].filter((inode) => listed.has(inode));
  const { taken, others } = await takeStock({ memory, before, fresh }, tools);
  // When the kernel holds none of the old ones, it has none left to replace.
  memory.missing = before.length === 0 ? 0 : Math.max(0, memory.missing - taken);
  await request.save({ ...details, sockets: [...inodesOf(memory.links), ...others] });
  if (taken > 0) return 'linked';
  return memory.missing > 0 ? 'not-yet' : 'alive';
}

/** Keeps those of `fresh` that the kernel took. `others` are sockets that it holds and of which we have nothing. */
async function takeStock(
  sockets: { memory: DeviceMemory; before: readonly string[]; fresh: readonly Link[] },
  { machine }: KernelTools,
): Promise<{ taken: number; others: string[] }> {
  const { memory, before, fresh } = sockets;
  if (before.length > 0) {
    const listed = await machine.listSockets();
    const others = before.filter((inode) => listed.has(inode));
    const taken = before.length - others.length;
    memory.links = [...memory.links, ...fresh.slice(0, taken)];
    for (const link of fresh.slice(taken)) link.close();
    return { taken, others };
  }
  for (const link of fresh) link.close();
  const listed = await machine.listSockets();
  const used = inodesOf(fresh).filter((inode) => listed.has(inode));
  if (used.length === 0) return { taken: 0, others: [] };
  // One that seemed to live was replaced: which one, only the kernel knows.
  const known = inodesOf(memory.links);
  memory.closeLinks();
  const left = await machine.listSockets();
  return { taken: used.length, others: [...known.filter((inode) => left.has(inode)), ...used] };
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
