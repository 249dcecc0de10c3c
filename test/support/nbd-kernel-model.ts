/**
 * A model of the kernel's NBD client for tests of the kernel strategy: devices with real sockets, of which it keeps
 * descriptors of its own, as the kernel does. It does no I/O. What it does was seen of Linux 6.1: a RECONFIGURE
 * replaces only sockets that are dead and succeeds without doing anything when none is; a disconnected device that
 * somebody holds open keeps its attributes and sockets until the last close.
 */
import {
  closeDescriptor,
  duplicate,
  isSocketDead,
  shutdownSocket,
  socketInode,
} from '../../src/base/ffi-sockets.ts';
import { listSocketInodes } from '../../src/attacher/kernel/links.ts';
import type { NbdDevice } from '../../src/attacher/kernel/nbd-devices.ts';
import type { DeviceHold, NbdMachine } from '../../src/attacher/kernel/nbd-machine.ts';
import type {
  NbdConnectRequest,
  NbdControl,
  NbdReconfigureRequest,
} from '../../src/attacher/kernel/netlink/nbd-netlink.ts';
import { VolumeError } from '../../src/volumes/errors.ts';

interface ModelDevice {
  readonly index: number;
  identifier: string | null;
  pid: number | null;
  sizeBytes: number;
  serverFlags: number;
  isBound: boolean;
  holders: number;
  ioTimeoutMs: number;
  completed: number;
  timeouts: { readonly requestSeconds: number; readonly deadSeconds: number };
  sockets: number[];
}

/** All connections are made by one thread, as can happen. */
const connectorPid = 710;

export class NbdKernelModel {
  readonly devices: ModelDevice[] = [];
  /** So many RECONFIGUREs from now on find no socket dead yet. */
  unnoticed = 0;
  /** As before 2025: who asks is told that a disconnected device is connected while somebody holds it open. */
  forgetsEnds = false;
  /** As where the kernel waits for all requests before it sets a timer: neither writers nor readers are answered. */
  holdsUpTimers = false;
  /** As from a network namespace that the sockets are not of. */
  hidesSockets = false;
  #tell: (index: number | null) => void = () => undefined;

  readonly machine: NbdMachine = {
    listDevices: () => Promise.resolve(this.devices.map(shown)),
    readDevice: (index) => {
      const device = this.devices.find((each) => each.index === index);
      return Promise.resolve(device === undefined ? null : shown(device));
    },
    hasNode: (index) => Promise.resolve(this.devices.some((each) => each.index === index)),
    hold: (index) => Promise.resolve(this.hold(index)),
    setIoTimeout: (index, timeoutMs) => {
      if (this.holdsUpTimers) return new Promise(() => undefined);
      this.device(index).ioTimeoutMs = timeoutMs;
      return Promise.resolve();
    },
    readIoTimeout: (index) =>
      this.holdsUpTimers
        ? new Promise(() => undefined)
        : Promise.resolve(this.device(index).ioTimeoutMs),
    readProgress: (index) =>
      Promise.resolve({ inFlight: 0, completed: this.device(index).completed }),
    maxPart: () => Promise.resolve(0),
    listSockets: async () => (this.hidesSockets ? new Set() : await listSocketInodes()),
  };

  /** What one process has of the kernel. */
  control(options: { hasIdentifiers: boolean }): NbdControl {
    return {
      hasIdentifiers: options.hasIdentifiers,
      connect: (request) => answer(() => this.#connect(request)),
      reconfigure: (request) =>
        answer(() => {
          this.#reconfigure(request);
        }),
      isBound: (index, identifier) => answer(() => this.#isBound(index, identifier)),
      disconnect: (index) =>
        answer(() => {
          this.disconnect(index);
        }),
      status: () =>
        answer(() => this.devices.map(({ index, isBound }) => ({ index, connected: isBound }))),
      onLinkDead: (callback) => {
        this.#tell = callback;
      },
      close: () => {
        this.#tell = () => undefined;
      },
    };
  }

  device(index: number): ModelDevice {
    let device = this.devices.find((each) => each.index === index);
    if (device === undefined) {
      device = { index, ...unused(), ioTimeoutMs: 30_000, completed: 0, holders: 0 };
      this.devices.push(device);
    }
    return device;
  }

  /** Somebody opens the device. */
  hold(index: number): DeviceHold {
    const device = this.device(index);
    device.holders += 1;
    let isOpen = true;
    return {
      close: () => {
        if (isOpen) device.holders -= 1;
        isOpen = false;
        this.#settle(device);
        return Promise.resolve();
      },
    };
  }

  /** Of links that could carry I/O. */
  liveSockets(index: number): string[] {
    const { sockets, isBound } = this.device(index);
    if (!isBound) return [];
    return sockets.filter((fd) => !isSocketDead(fd)).map((fd) => socketInode(fd) ?? '');
  }

  get bound(): number[] {
    return this.devices.filter(({ isBound }) => isBound).map(({ index }) => index);
  }

  tellLinkDead(index: number | null): void {
    this.#tell(index);
  }

  disconnect(index: number): void {
    const device = this.devices.find((each) => each.index === index);
    if (device === undefined) return;
    for (const fd of device.sockets) shutdownSocket(fd);
    device.isBound = false;
    this.#settle(device);
  }

  /** The reboot. */
  close(): void {
    for (const device of this.devices) {
      device.holders = 0;
      this.disconnect(device.index);
    }
  }

  #connect(request: NbdConnectRequest): number {
    const index = request.index ?? this.#unusedIndex();
    const device = this.device(index);
    if (device.pid !== null || device.holders > 0)
      throw new VolumeError('VOLUME_IN_USE', `connect an NBD device: nbd${index} is in use`);
    Object.assign(device, {
      ...{ identifier: request.identifier, pid: connectorPid, isBound: true },
      ...{ sizeBytes: request.sizeBytes, serverFlags: request.serverFlags },
      timeouts: { requestSeconds: 0, deadSeconds: request.deadTimeoutSeconds },
      ioTimeoutMs: 30_000,
      sockets: request.sockets.map(duplicate),
    });
    return index;
  }

  #unusedIndex(): number {
    const used = new Set(
      this.devices.filter(({ pid, holders }) => pid !== null || holders > 0).map((d) => d.index),
    );
    let index = 0;
    while (used.has(index)) index += 1;
    return index;
  }

  #reconfigure(request: NbdReconfigureRequest): void {
    const { index, identifier, sockets = [], size, timeouts } = request;
    if (!this.#isBound(index, identifier))
      throw new VolumeError('PATH_NOT_FOUND', `reconfigure nbd${index}: it is not connected`);
    const device = this.device(index);
    if (timeouts !== undefined) {
      const ioTimeoutMs = timeouts.requestSeconds === 0 ? 30_000 : timeouts.requestSeconds * 1000;
      Object.assign(device, { timeouts, ioTimeoutMs });
    }
    if (size !== undefined) device.sizeBytes = size.sizeBytes;
    if (sockets.length > 0 && this.unnoticed > 0) {
      this.unnoticed -= 1;
      return;
    }
    for (const fd of sockets) {
      const at = device.sockets.findIndex((each) => isSocketDead(each));
      if (at < 0) return;
      const [dead] = device.sockets.splice(at, 1, duplicate(fd));
      if (dead !== undefined) closeDescriptor(dead);
    }
  }

  #isBound(index: number, identifier: string | null): boolean {
    const device = this.devices.find((each) => each.index === index);
    if (device === undefined || device.identifier !== identifier) return false;
    return device.isBound || (this.forgetsEnds && device.pid !== null);
  }

  /** After the last close, nothing of a disconnected device is left. */
  #settle(device: ModelDevice): void {
    if (device.isBound || device.holders > 0) return;
    for (const fd of device.sockets) closeDescriptor(fd);
    Object.assign(device, unused());
  }
}

function unused(): Omit<ModelDevice, 'index' | 'ioTimeoutMs' | 'completed' | 'holders'> {
  const timeouts = { requestSeconds: 0, deadSeconds: 0 };
  return {
    ...{ identifier: null, pid: null, sizeBytes: 0, serverFlags: 0, timeouts },
    ...{ isBound: false, sockets: [] },
  };
}

function shown({ index, identifier, pid, sizeBytes }: ModelDevice): NbdDevice {
  return { index, identifier, pid, sizeBytes };
}

/** The kernel answers later, however it answers. */
async function answer<T>(work: () => T): Promise<T> {
  await Promise.resolve();
  return work();
}
