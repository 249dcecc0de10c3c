/**
 * The kernel's NBD client by its generic netlink family "nbd": connects sockets to block devices, replaces dead
 * sockets, changes sizes and hears of lost links. Needs CAP_SYS_ADMIN in the first user namespace; kernels before 6.x
 * have the family, and all kernels send its events, in the first network namespace only.
 */
import type { Clock } from '../../../base/clock.ts';
import type { Logger } from '../../../base/logger.ts';
import { toVolumeError, VolumeError, type ErrorCode } from '../../../volumes/errors.ts';
import {
  decodeConnected,
  decodeLinkDead,
  decodeStatus,
  encodeConnect,
  encodeDisconnect,
  encodeReconfigure,
  encodeStatus,
  identifierAttribute,
  nbdFamilyName,
  nbdGroupName,
  type NbdConnectRequest,
  type NbdDeviceStatus,
  type NbdReconfigureRequest,
} from './nbd-messages.ts';
import {
  decodeFamily,
  encodeGetFamily,
  messageTypes,
  type NetlinkFamily,
  type NetlinkMessage,
} from './netlink-messages.ts';
import { NetlinkError, NetlinkEvents, NetlinkSocket } from './netlink-socket.ts';

export type { NbdConnectRequest, NbdDeviceStatus, NbdReconfigureRequest } from './nbd-messages.ts';

/** What the strategy needs of it (its doubles in unit tests implement this). */
export interface NbdControl {
  /** The kernel knows BACKEND_IDENTIFIER (CTRL_ATTR_MAXATTR >= 10). */
  readonly hasIdentifiers: boolean;
  /**
   * The index of the device. VOLUME_IN_USE when a chosen index is taken; UNAVAILABLE, NOT_CAPABLE (EPERM: needs
   * CAP_SYS_ADMIN), INTERNAL.
   */
  connect(request: NbdConnectRequest): Promise<number>;
  /** PATH_NOT_FOUND when the device is not configured or is somebody else's; else as connect. */
  reconfigure(request: NbdReconfigureRequest): Promise<void>;
  /**
   * RECONFIGURE with the identifier and nothing else: false when the kernel says that the device is not configured or
   * is somebody else's.
   */
  isBound(index: number, identifier: string | null): Promise<boolean>;
  /** Fine when it is not connected. */
  disconnect(index: number): Promise<void>;
  /** `connected` says no more than that somebody uses the index. */
  status(): Promise<readonly NbdDeviceStatus[]>;
  /** null: events were lost, any device may be concerned. */
  onLinkDead(callback: (index: number | null) => void): void;
  close(): void;
}

/** How the kernel is reached; tests bring a kernel of their own. */
export interface NetlinkTransport {
  /** As NetlinkSocket.request(). */
  request(type: number, payload: Buffer, what: string): Promise<Buffer[]>;
  /** As the constructor of NetlinkEvents. */
  listen(group: number, onEvent: (message: NetlinkMessage | null) => void): { close(): void };
  close(): void;
}

const defaultTimeoutMs = 30_000;

export interface NbdNetlinkOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Of each request: 30 s unless told otherwise. */
  readonly timeoutMs?: number;
}

/** NOT_CAPABLE when there is no family "nbd" (the module is not loaded). */
export async function openNbdNetlink(options: NbdNetlinkOptions): Promise<NbdControl> {
  const { clock, logger, timeoutMs = defaultTimeoutMs } = options;
  const socket = new NetlinkSocket({ clock, timeoutMs });
  const transport: NetlinkTransport = {
    request: (type, payload, what) => socket.request(type, payload, what),
    listen: (group, onEvent) => new NetlinkEvents({ clock, group, onEvent }),
    close: () => {
      socket.close();
    },
  };
  return await openNbdControl(transport, logger);
}

/** Takes the transport over; it is closed when this rejects. */
export async function openNbdControl(
  transport: NetlinkTransport,
  logger: Logger,
): Promise<NbdControl> {
  try {
    return new NbdNetlink(transport, logger, await resolveFamily(transport));
  } catch (error) {
    transport.close();
    throw error;
  }
}

async function resolveFamily(transport: NetlinkTransport): Promise<NetlinkFamily> {
  const what = 'find the netlink family of NBD';
  let answers: Buffer[];
  try {
    const payload = encodeGetFamily(nbdFamilyName);
    answers = await transport.request(messageTypes.CONTROLLER, payload, what);
  } catch (error) {
    if (!isRefusal(error, 'ENOENT')) throw toVolumeError(error, what);
    const why = 'the kernel module nbd is not loaded, or this is a network namespace of its own';
    throw new VolumeError('NOT_CAPABLE', `${what}: ${why}`, { cause: error });
  }
  const family = decodeAnswer(answers, decodeFamily);
  if (family === null) throw new VolumeError('PROTOCOL_ERROR', `${what}: the answer is malformed`);
  return family;
}

class NbdNetlink implements NbdControl {
  readonly hasIdentifiers: boolean;
  readonly #transport: NetlinkTransport;
  readonly #logger: Logger;
  #family: NetlinkFamily;
  #events: { close(): void };
  #onLinkDead: (index: number | null) => void = () => undefined;

  constructor(transport: NetlinkTransport, logger: Logger, family: NetlinkFamily) {
    this.#transport = transport;
    this.#logger = logger;
    this.#family = family;
    this.hasIdentifiers = family.maxAttribute >= identifierAttribute;
    this.#events = this.#listen();
  }

  async connect(request: NbdConnectRequest): Promise<number> {
    const what = 'connect an NBD device';
    try {
      const index = decodeAnswer(
        await this.#request(encodeConnect(request), what),
        decodeConnected,
      );
      if (index !== null) return index;
    } catch (error) {
      const { index } = request;
      // EEXIST: somebody else has made the device at the same time.
      const isTaken = isRefusal(error, 'EBUSY') || isRefusal(error, 'EEXIST');
      if (index === null || !isTaken) throw asVolumeError(error, what);
      const message = `${what}: nbd${index} is in use`;
      throw new VolumeError('VOLUME_IN_USE', message, { cause: error });
    }
    throw new VolumeError('PROTOCOL_ERROR', `${what}: the kernel did not tell its index`);
  }

  async reconfigure(request: NbdReconfigureRequest): Promise<void> {
    const what = `reconfigure nbd${request.index}`;
    try {
      await this.#request(encodeReconfigure(request), what);
    } catch (error) {
      if (!isRefusal(error, 'EINVAL')) throw asVolumeError(error, what);
      const message = `${what}: it is not connected, or somebody else's`;
      throw new VolumeError('PATH_NOT_FOUND', message, { cause: error });
    }
  }

  async isBound(index: number, identifier: string | null): Promise<boolean> {
    const what = `look whether nbd${index} is connected`;
    try {
      await this.#request(encodeReconfigure({ index, identifier }), what);
      return true;
    } catch (error) {
      if (isRefusal(error, 'EINVAL')) return false;
      throw asVolumeError(error, what);
    }
  }

  async disconnect(index: number): Promise<void> {
    const what = `disconnect nbd${index}`;
    try {
      await this.#request(encodeDisconnect(index), what);
    } catch (error) {
      // There is no such device (any more).
      if (!isRefusal(error, 'EINVAL')) throw asVolumeError(error, what);
    }
  }

  async status(): Promise<readonly NbdDeviceStatus[]> {
    const what = 'list the NBD devices';
    let answers: Buffer[];
    try {
      answers = await this.#request(encodeStatus(), what);
    } catch (error) {
      throw asVolumeError(error, what);
    }
    const devices = decodeAnswer(answers, decodeStatus);
    if (devices === null)
      throw new VolumeError('PROTOCOL_ERROR', `${what}: the answer is malformed`);
    return devices;
  }

  onLinkDead(callback: (index: number | null) => void): void {
    this.#onLinkDead = callback;
  }

  close(): void {
    this.#events.close();
    this.#transport.close();
  }

  async #request(payload: Buffer, what: string): Promise<Buffer[]> {
    try {
      return await this.#transport.request(this.#family.id, payload, what);
    } catch (error) {
      if (!isRefusal(error, 'ENOENT')) throw error;
    }
    // Nobody has this number: the module was loaded anew, and its family has another one.
    this.#family = await resolveFamily(this.#transport);
    this.#events.close();
    this.#events = this.#listen();
    this.#logger.warn('the nbd module was loaded anew');
    return await this.#transport.request(this.#family.id, payload, what);
  }

  #listen(): { close(): void } {
    const group = this.#family.groups.get(nbdGroupName);
    if (group === undefined) {
      throw new VolumeError('NOT_CAPABLE', `listen to NBD: there is no group ${nbdGroupName}`);
    }
    return this.#transport.listen(group, (message) => {
      this.#take(message);
    });
  }

  #take(message: NetlinkMessage | null): void {
    if (message === null) {
      this.#logger.warn('events of nbd were lost');
      this.#onLinkDead(null);
      return;
    }
    const index = message.type === this.#family.id ? decodeLinkDead(message.payload) : null;
    if (index !== null) this.#onLinkDead(index);
  }
}

/** The first answer that is one. */
function decodeAnswer<T>(answers: readonly Buffer[], decode: (payload: Buffer) => T | null) {
  for (const answer of answers) {
    const decoded = decode(answer);
    if (decoded !== null) return decoded;
  }
  return null;
}

function isRefusal(error: unknown, code: string): boolean {
  return error instanceof NetlinkError && error.code === code;
}

function asVolumeError(error: unknown, what: string): VolumeError {
  if (isRefusal(error, 'EPERM')) {
    const message = `${what}: not permitted, needs CAP_SYS_ADMIN on the machine`;
    return new VolumeError('NOT_CAPABLE', message, { cause: error });
  }
  const isShortage = ['ENOMEM', 'ENOBUFS'].some((code) => isRefusal(error, code));
  const fallback: ErrorCode = isShortage ? 'UNAVAILABLE' : 'INTERNAL';
  return toVolumeError(error, what, fallback);
}
