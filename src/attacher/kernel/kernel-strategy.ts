/**
 * Devices of the kernel's own NBD client (/dev/nbdN). The kernel needs nobody once a device is connected: it goes on
 * through the end of this process. Only a device that lost its volumedriver needs us, for a new link.
 *
 * One link is the default. With one, and no request timeout, the kernel waits for a server that stalls for as long as
 * that takes; with several it takes a link for dead that is slow, and sends its requests again on another one.
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { describeError, type Logger } from '../../base/logger.ts';
import { Mutex } from '../../base/mutex.ts';
import { parseNbdUri } from '../../nbd/uri.ts';
import type { RunCommand } from '../../volumes/command.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { connectionsMax } from '../choose-strategy.ts';
import { confirmedProbe, requireOffered, troubleOf } from '../export-probe.ts';
import { probeExport } from '../nbd-probe.ts';
import { unreadable } from '../records.ts';
import type {
  AttacherIdentity,
  Details,
  DeviceStrategy,
  Inspection,
  SaveDetails,
  Target,
  TargetExport,
} from '../strategy.ts';
import { DeviceMemory } from './device-memory.ts';
import { encodeIdentifier } from './identifiers.ts';
import { attachDevice } from './kernel-attach.ts';
import {
  defaultKernelTimeouts,
  noDetails,
  readDetails,
  type KernelDetails,
  type KernelTimeouts,
} from './kernel-details.ts';
import { detachDevice } from './kernel-detach.ts';
import { growDevice } from './kernel-grow.ts';
import { giveUp, hasUnknownLinks, healDevice, needsLook, stateOf } from './kernel-heal.ts';
import { LentSockets, type KernelTools } from './kernel-tools.ts';
import type { NbdDevice } from './nbd-devices.ts';
import { devicePath, thisMachine, type NbdMachine } from './nbd-machine.ts';
import { openNbdNetlink, type NbdControl, type NbdNetlinkOptions } from './netlink/nbd-netlink.ts';
import { OwnDevices } from './own-devices.ts';

export interface KernelStrategyOptions {
  readonly runCommand: RunCommand;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly timeouts?: Partial<KernelTimeouts>;
  /** How long the kernel keeps requests of a device without a link. 3600 unless given. */
  readonly reconnectDelaySeconds?: number;
  /** Links of each device, 1 to 16; 1 unless given. */
  readonly connections?: number;
  /** Whether devices carry an identifier; what the kernel can, unless given. */
  readonly identifiers?: boolean;
  readonly openControl?: (options: NbdNetlinkOptions) => Promise<NbdControl>;
  readonly machine?: NbdMachine;
}

type ExportTarget = Target & { export: TargetExport };

/** A device that is ours. */
interface Found {
  readonly device: NbdDevice;
  readonly details: KernelDetails;
  readonly memory: DeviceMemory;
}

export class KernelStrategy implements DeviceStrategy {
  readonly name = 'kernel';
  readonly #options: KernelStrategyOptions;
  readonly #machine: NbdMachine;
  readonly #timeouts: KernelTimeouts;
  readonly #connections: number;
  readonly #memories = new Map<string, DeviceMemory>();
  readonly #lent = new LentSockets();
  #onTrouble: (key: string) => void = () => undefined;
  #started: { identity: AttacherIdentity; identifiers: boolean; tools: KernelTools } | null = null;

  constructor(options: KernelStrategyOptions) {
    this.#options = options;
    this.#machine = options.machine ?? thisMachine;
    this.#timeouts = { ...defaultKernelTimeouts, ...options.timeouts };
    this.#connections = options.connections ?? 1;
    assert(
      Number.isInteger(this.#connections) &&
        this.#connections >= 1 &&
        this.#connections <= connectionsMax,
      `a device has 1 to ${connectionsMax} connections`,
    );
  }

  async start(identity: AttacherIdentity): Promise<void> {
    if (this.#started !== null) return;
    const { clock, logger, runCommand, openControl = openNbdNetlink } = this.#options;
    const [machine, timeouts, lent] = [this.#machine, this.#timeouts, this.#lent];
    const control = await openControl({ clock, logger, timeoutMs: timeouts.netlinkMs });
    control.onLinkDead((index) => {
      this.#report(index);
    });
    const heldByUs = (): ReadonlySet<string> => this.#heldSockets();
    const own = new OwnDevices({ identity, control, machine, heldByUs });
    const indexes = new Mutex();
    const deadTimeoutSeconds = this.#options.reconnectDelaySeconds ?? 3600;
    const limits = { timeouts, deadTimeoutSeconds };
    const tools = { ...limits, control, machine, own, lent, indexes, runCommand, clock, logger };
    const identifiers = this.#options.identifiers ?? control.hasIdentifiers;
    this.#started = { identity, identifiers, tools };
    const maxPart = await machine.maxPart();
    if (maxPart !== null && maxPart > 0)
      logger.warn('the nbd module looks for partitions: load it with max_part=0', { maxPart });
  }

  async close(): Promise<void> {
    const started = this.#started;
    this.#started = null;
    started?.tools.control.close();
    for (const memory of this.#memories.values()) await memory.release();
    this.#memories.clear();
    this.#lent.close();
  }

  async attach(target: ExportTarget, save: SaveDetails): Promise<Inspection> {
    const { identity, identifiers, tools } = this.#require();
    const { volumeId, uri } = target.export;
    const { address, exportName } = parseNbdUri(uri);
    if (address.kind !== 'unix') {
      const why = 'it needs a volumedriver on a unix socket, not on TCP';
      throw new VolumeError('NOT_CAPABLE', `attach with the kernel's NBD client: ${why}`);
    }
    const identifier = identifiers ? encodeIdentifier(identity, volumeId, exportName) : null;
    const request = {
      target,
      identifier,
      connections: this.#connections,
      memory: this.#memory(target),
      save,
    };
    return await attachDevice(request, tools);
  }

  async detach(target: Target, saved: Details | null, save: SaveDetails): Promise<void> {
    const { tools } = this.#require();
    const details = readDetails(saved) ?? noDetails;
    const memory = this.#memory(target);
    const logger = this.#logger(target);
    await this.#lent.settle(tools.control);
    for (const device of await tools.own.find(target, details)) {
      const request = { device, export: target.export, details, memory, save };
      await detachDevice(request, { ...tools, logger });
    }
    this.#memories.delete(target.key);
    await memory.release();
  }

  async resize(
    target: ExportTarget,
    saved: Details,
    { sizeBytes, save }: { sizeBytes: number; save: SaveDetails },
  ): Promise<Inspection> {
    const { tools } = this.#require();
    const before = await this.inspect(target, saved);
    if (before.state !== 'attached') throw cannotGrow(before);
    if (before.sizeBytes >= sizeBytes) return before;
    const { uri, readOnly } = target.export;
    const { clock, timeouts } = tools;
    const probe = await probeExport(uri, { clock, timeoutMs: timeouts.probeMs });
    const offered = requireOffered(probe, readOnly);
    if (offered.sizeBytes < sizeBytes) {
      const why = `the export has ${offered.sizeBytes} bytes, not ${sizeBytes}`;
      throw new VolumeError('OUT_OF_RANGE', `grow the device: ${why}`);
    }
    const { details, device, memory } = await this.#requireLinked(target, saved, save);
    const limited = { ...device, connections: details.connections };
    await growDevice({ device: limited, memory, exportBytes: offered.sizeBytes }, tools);
    return await this.inspect(target, saved);
  }

  async isSuspect(target: ExportTarget, saved: Details): Promise<boolean> {
    const details = readDetails(saved);
    if (details === null || details.failed !== null) return false;
    const memory = this.#memory(target);
    memory.index ??= details.index;
    return await Promise.resolve(
      needsLook(memory, details.sockets, this.#options.clock.monotonicMs()),
    );
  }

  async heal(target: ExportTarget, saved: Details, save: SaveDetails): Promise<Inspection> {
    const { tools } = this.#require();
    await this.#holdGivenUp(target, saved);
    const found = await this.#find(target, saved);
    if ('state' in found) return found;
    const { device, details, memory } = found;
    if (details.failed !== null) {
      // Begun by this process or an earlier one: a repetition completes it.
      if (!memory.isHeld) await giveUp(device, memory, tools);
      return stateOf(device, 'broken', details.failed);
    }
    if (!needsLook(memory, details.sockets, tools.clock.monotonicMs()))
      return stateOf(device, 'attached', '');
    const request = { device, export: target.export, details, memory, save };
    return await healDevice(request, tools);
  }

  async fail(
    target: ExportTarget,
    saved: Details,
    failure: { reason: string; save: SaveDetails },
  ): Promise<void> {
    const { tools } = this.#require();
    const details = readDetails(saved);
    if (details === null) throw new VolumeError('CORRUPT', `give the device up: ${unreadable}`);
    const device = await tools.own.recorded(target.key, details);
    try {
      await failure.save({ ...details, failed: details.failed ?? failure.reason });
    } catch (error) {
      // A device that has an identifier can be told apart without its record, and what waits on it must not hang.
      if (device === null || device.identifier === null) throw error;
      this.#logger(target).warn('end of the device could not be recorded', { error });
    }
    if (device !== null) await giveUp(device, this.#memory(target), tools);
  }

  onTrouble(callback: (key: string) => void): void {
    this.#onTrouble = callback;
  }

  async inspect(target: ExportTarget, saved: Details): Promise<Inspection> {
    const { clock, timeouts } = this.#require().tools;
    const found = await this.#find(target, saved);
    if ('state' in found) return found;
    const { device, details, memory } = found;
    if (details.failed !== null) return stateOf(device, 'broken', details.failed);
    const wait = { clock, timeoutMs: timeouts.probeMs };
    const probe = await confirmedProbe(target.export.uri, wait);
    const trouble = troubleOf(probe);
    if (trouble !== null) return stateOf(device, trouble.state, trouble.reason);
    if (memory.missing.length > 0 || memory.links.some((link) => link.isDead))
      return stateOf(device, 'waiting', 'it is being reconnected');
    return stateOf(device, 'attached', '');
  }

  async list(): Promise<string[]> {
    return await this.#require().tools.own.keys();
  }

  async forget(target: Target): Promise<void> {
    if ((await this.list()).includes(target.key))
      throw new VolumeError('INTERNAL', `forget ${target.key}: something of it still runs`);
    await this.#memories.get(target.key)?.release();
    this.#memories.delete(target.key);
  }

  /** The target's device, or why there is none that works. */
  async #find(target: ExportTarget, saved: Details): Promise<Found | Inspection> {
    const { own } = this.#require().tools;
    const details = readDetails(saved);
    if (details === null) return { path: '', sizeBytes: 0, state: 'waiting', reason: unreadable };
    if (details.index === null)
      return { path: '', sizeBytes: 0, state: 'broken', reason: 'the record names no device' };
    const path = devicePath(details.index);
    const memory = this.#memory(target);
    memory.index = details.index;
    const device = await own.recorded(target.key, details);
    if (device === null) {
      // Without a connection the kernel forgets whose it was; while we hold it open, it is nobody else's.
      const isHeld = details.failed !== null && memory.isHeld;
      const reason = details.failed ?? `${path} does not belong to this volume any more`;
      return { path: isHeld ? path : '', sizeBytes: 0, state: 'broken', reason };
    }
    if (details.failed !== null) return { device, details, memory };
    try {
      if (await own.isConnected(device)) return { device, details, memory };
    } catch (error) {
      return stateOf(device, 'waiting', describeError(error));
    }
    return stateOf(device, 'broken', `${path} was disconnected by somebody else`);
  }

  /** The kernel lets go of a device that was given up with the process that held it: the next one holds its index. */
  async #holdGivenUp(target: ExportTarget, saved: Details): Promise<void> {
    const { tools } = this.#require();
    const details = readDetails(saved);
    if (details === null || details.failed === null || details.index === null) return;
    const memory = this.#memory(target);
    const isUnused = async (index: number): Promise<boolean> =>
      (await tools.machine.readDevice(index))?.pid === null;
    const { index } = details;
    if (memory.isHeld || !(await isUnused(index))) return;
    await memory.hold(index, tools);
    // Somebody may have connected it in between.
    if (!(await isUnused(index))) await memory.release();
  }

  /** A size that is set while a link is dead would block the kernel's NBD client as a whole. */
  async #requireLinked(target: ExportTarget, saved: Details, save: SaveDetails): Promise<Found> {
    const { tools } = this.#require();
    const found = await this.#find(target, saved);
    if ('state' in found) throw cannotGrow(found);
    const { memory, details } = found;
    if (memory.missing.length > 0 || hasUnknownLinks(memory, details.sockets)) {
      const healed = await healDevice({ ...found, export: target.export, save }, tools);
      if (healed.state !== 'attached') throw cannotGrow(healed);
    }
    if (memory.links.some((link) => link.isDead))
      throw new VolumeError('UNAVAILABLE', 'grow the device: it is being reconnected');
    return found;
  }

  #require(): { identity: AttacherIdentity; identifiers: boolean; tools: KernelTools } {
    if (this.#started !== null) return this.#started;
    throw new VolumeError('UNAVAILABLE', "the kernel's NBD client: the strategy is not started");
  }

  #memory({ key }: Target): DeviceMemory {
    let memory = this.#memories.get(key);
    if (memory === undefined) {
      memory = new DeviceMemory();
      this.#memories.set(key, memory);
    }
    return memory;
  }

  #heldSockets(): ReadonlySet<string> {
    const links = [...this.#memories.values()].flatMap((memory) => memory.links);
    return new Set([...links.map(({ inode }) => inode), ...this.#lent.inodes]);
  }

  /** null: events were lost, so every device may be concerned. */
  #report(index: number | null): void {
    for (const [key, memory] of this.#memories) {
      if (index !== null && memory.index !== index) continue;
      if (index !== null) memory.isReported = true;
      memory.recheckAtMs = 0;
      this.#onTrouble(key);
    }
  }

  #logger(target: Target): Logger {
    const { key } = target;
    return this.#options.logger.child({ volumeId: target.export?.volumeId ?? '', key });
  }
}

function cannotGrow({ state, reason }: Inspection): VolumeError {
  return new VolumeError('UNAVAILABLE', `grow the device: it is ${state}: ${reason}`);
}
