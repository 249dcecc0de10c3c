/**
 * Makes a device: links first, then the record of what the kernel is about to get, then the device. The kernel
 * chooses the index, which is never one that somebody holds open. Only where it cannot keep an identifier with the
 * device, the index is chosen here, so that it is on record before the device exists.
 */
import { transmissionFlags } from '../../nbd/protocol.ts';
import { hasCode, VolumeError } from '../../volumes/errors.ts';
import { requireOffered } from '../export-probe.ts';
import { probeExport } from '../nbd-probe.ts';
import type { Inspection, SaveDetails, Target, TargetExport } from '../strategy.ts';
import { waitUntil } from '../waiting.ts';
import { DeviceMemory } from './device-memory.ts';
import { noDetails, type KernelDetails } from './kernel-details.ts';
import type { KernelTools } from './kernel-tools.ts';
import { openLink, openLinks, type OpenedLink } from './links.ts';
import { devicePath } from './nbd-machine.ts';
import { askEarly } from './request-limits.ts';

export const sectorBytes = 512;

/** How many indexes are tried that others take at the same time. */
const indexAttempts = 64;

export interface AttachRequest {
  readonly target: Target & { export: TargetExport };
  /** Null on a kernel that keeps none. */
  readonly identifier: string | null;
  readonly connections: number;
  readonly memory: DeviceMemory;
  readonly save: SaveDetails;
}

export async function attachDevice(
  request: AttachRequest,
  tools: KernelTools,
): Promise<Inspection> {
  const { uri, readOnly } = request.target.export;
  const wait = { clock: tools.clock, timeoutMs: tools.timeouts.probeMs };
  requireOffered(await probeExport(uri, wait), readOnly);
  const opened = await openAll(request, tools);
  const { sizeBytes } = requireUsable(opened, readOnly);
  const details = await connect(request, { opened, sizeBytes }, tools);
  const index = details.index ?? 0;
  const path = devicePath(index);
  await askEarly({ index, connections: details.connections }, request.memory, tools);
  await awaitDevice(index, sizeBytes, tools);
  await openOnce(index, tools);
  return { path, sizeBytes, state: 'attached', reason: '' };
}

async function awaitDevice(index: number, sizeBytes: number, tools: KernelTools): Promise<void> {
  const { machine } = tools;
  let shown = 0;
  const options = { timeoutMs: tools.timeouts.deviceMs, everyMs: 20 };
  const isThere = await waitUntil(tools.clock, options, async () => {
    shown = (await machine.readDevice(index))?.sizeBytes ?? 0;
    return shown === sizeBytes && (await machine.hasNode(index));
  });
  if (isThere) return;
  const why =
    shown === sizeBytes
      ? 'its node is missing: /dev must be that of the machine'
      : `it shows ${shown} bytes, the export has ${sizeBytes}`;
  throw new VolumeError('UNAVAILABLE', `attach ${devicePath(index)}: ${why}`);
}

/**
 * The first one to open a new or grown device has the kernel look for partitions, unless the module was told not to,
 * and whoever opens it without a link waits for that. So this is done now that the server has just answered.
 */
export async function openOnce(index: number, tools: KernelTools): Promise<void> {
  const opened = new DeviceMemory();
  const startMs = tools.clock.monotonicMs();
  await opened.hold(index, tools);
  await opened.release();
  const tookMs = Math.round(tools.clock.monotonicMs() - startMs);
  tools.logger.debug('device opened for the first time', { device: devicePath(index), tookMs });
}

/** Several links only to a server that sees each one's writes on all of them. */
async function openAll(request: AttachRequest, tools: KernelTools): Promise<OpenedLink[]> {
  const { uri } = request.target.export;
  const wait = { clock: tools.clock, timeoutMs: tools.timeouts.connectMs };
  const first = await openLink(uri, wait);
  const isShared = (first.agreement.transmissionFlags & transmissionFlags.CAN_MULTI_CONN) !== 0;
  if (!isShared || request.connections === 1) return [first];
  try {
    return [first, ...(await openLinks(uri, request.connections - 1, wait))];
  } catch (error) {
    first.link.close();
    throw error;
  }
}

/** The size in whole sectors; closes the links when they are of no use. */
function requireUsable(opened: readonly OpenedLink[], readOnly: boolean): { sizeBytes: number } {
  const what = 'attach the export';
  const sizes = opened.map(({ agreement }) => agreement.sizeBytes);
  const sizeBytes = Math.floor(Math.min(...sizes) / sectorBytes) * sectorBytes;
  let problem: VolumeError | null = null;
  for (const { agreement } of opened) {
    const isReadOnly = (agreement.transmissionFlags & transmissionFlags.READ_ONLY) !== 0;
    if (isReadOnly && !readOnly) problem = new VolumeError('READ_ONLY', `${what}: it is read-only`);
    if (agreement.minimumBlockBytes > sectorBytes) {
      const why = `the server takes no requests of less than ${agreement.minimumBlockBytes} bytes`;
      problem = new VolumeError('NOT_CAPABLE', `${what}: ${why}`);
    }
  }
  if (sizeBytes === 0)
    problem = new VolumeError('OUT_OF_RANGE', `${what}: it is smaller than a sector`);
  if (problem === null) return { sizeBytes };
  for (const { link } of opened) link.close();
  throw problem;
}

/** Saves what is known before and after the device is made. From here on the links are the memory's. */
async function connect(
  request: AttachRequest,
  { opened, sizeBytes }: { opened: readonly OpenedLink[]; sizeBytes: number },
  tools: KernelTools,
): Promise<KernelDetails> {
  const { memory, identifier, save } = request;
  const links = opened.map(({ link }) => link);
  const readOnlyFlag = request.target.export.readOnly ? transmissionFlags.READ_ONLY : 0;
  const { machine, control, lent } = tools;
  const sockets = links.map(({ inode }) => inode);
  let details: KernelDetails = { ...noDetails, identifier, sockets, connections: links.length };
  memory.links = links;
  const refused = new Set<number>();
  let index = 0;
  for (;;) {
    const wanted = identifier === null ? await unusedIndex(tools, refused) : null;
    details = { ...details, index: wanted };
    await save(details);
    try {
      const device = {
        index: wanted,
        sizeBytes,
        blockSizeBytes: sectorBytes,
        serverFlags: (opened[0]?.agreement.transmissionFlags ?? 0) | readOnlyFlag,
        sockets: links.map(({ fd }) => fd),
        deadTimeoutSeconds: tools.deadTimeoutSeconds,
        identifier,
      };
      index = await tools.indexes.run(() => control.connect(device));
      break;
    } catch (error) {
      if (wanted !== null && refused.size < indexAttempts && hasCode(error, 'VOLUME_IN_USE')) {
        refused.add(wanted);
        continue;
      }
      memory.links = [];
      lent.takeBack(links, error);
      throw error;
    }
  }
  const connectorPid = (await machine.readDevice(index))?.pid ?? null;
  tools.own.connected(request.target, { index, pid: connectorPid });
  details = { ...details, index, connectorPid };
  memory.index = index;
  memory.requestsWait = true;
  memory.asksEarly = false;
  await save(details);
  return details;
}

/** The lowest index that nobody uses, of a device that exists or can be made. */
async function unusedIndex(
  { machine }: KernelTools,
  refused: ReadonlySet<number>,
): Promise<number> {
  const devices = await machine.listDevices();
  const used = new Set(devices.filter(({ pid }) => pid !== null).map(({ index }) => index));
  let index = 0;
  while (used.has(index) || refused.has(index)) index += 1;
  return index;
}
