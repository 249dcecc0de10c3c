/** The payloads of the generic netlink family "nbd", as include/uapi/linux/nbd-netlink.h of Linux numbers them. */
import {
  attributeNested,
  attributeString,
  attributeU32,
  attributeU64,
  decodeAttributes,
  decodeGeneric,
  encodeGeneric,
  findNumber,
  findValue,
} from './netlink-messages.ts';

export const nbdFamilyName = 'nbd';
export const nbdGroupName = 'nbd_mc_group';

const version = 1;
const commands = { CONNECT: 1, DISCONNECT: 2, RECONFIGURE: 3, LINK_DEAD: 4, STATUS: 5 };
const attributes = {
  INDEX: 1,
  SIZE_BYTES: 2,
  BLOCK_SIZE_BYTES: 3,
  TIMEOUT: 4,
  SERVER_FLAGS: 5,
  SOCKETS: 7,
  DEAD_CONN_TIMEOUT: 8,
  DEVICE_LIST: 9,
  BACKEND_IDENTIFIER: 10,
};
const socketItem = 1;
const socketDescriptor = 1;
const deviceItem = 1;
const deviceAttributes = { INDEX: 1, CONNECTED: 2 };

/** Families that know an attribute of this number know BACKEND_IDENTIFIER: Linux 5.14 and later, and backports. */
export const identifierAttribute = attributes.BACKEND_IDENTIFIER;

export interface NbdConnectRequest {
  /** Null: the kernel takes the first unused index or makes a new device. */
  readonly index: number | null;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly serverFlags: number;
  /** Descriptors of connected sockets behind their handshakes; they stay the caller's, the kernel takes its own. */
  readonly sockets: readonly number[];
  readonly deadTimeoutSeconds: number;
  readonly identifier: string | null;
}

export interface NbdReconfigureRequest {
  readonly index: number;
  readonly identifier: string | null;
  readonly sockets?: readonly number[];
  readonly size?: { readonly sizeBytes: number; readonly blockSizeBytes: number };
  /**
   * requestSeconds: after which a request that has no answer is sent again on another link; 0 for never. It also sets
   * the block layer's timer, to 30 s for 0. deadSeconds: how long requests wait for a link.
   */
  readonly timeouts?: { readonly requestSeconds: number; readonly deadSeconds: number };
}

export interface NbdDeviceStatus {
  readonly index: number;
  readonly connected: boolean;
}

/** A request timeout of 0 is sent along: it also takes back the block layer's timer that another user has left. */
export function encodeConnect(request: NbdConnectRequest): Buffer {
  return encodeGeneric({
    command: commands.CONNECT,
    version,
    attributes: [
      ...(request.index === null ? [] : [attributeU32(attributes.INDEX, request.index)]),
      ...encodeSize(request),
      attributeU64(attributes.TIMEOUT, 0),
      attributeU64(attributes.SERVER_FLAGS, request.serverFlags),
      attributeU64(attributes.DEAD_CONN_TIMEOUT, request.deadTimeoutSeconds),
      encodeSockets(request.sockets),
      ...encodeIdentifier(request.identifier),
    ],
  });
}

/** Without sockets and size it changes nothing and only asks whether the device is the identifier's. */
export function encodeReconfigure(request: NbdReconfigureRequest): Buffer {
  return encodeGeneric({
    command: commands.RECONFIGURE,
    version,
    attributes: [
      attributeU32(attributes.INDEX, request.index),
      ...(request.size === undefined ? [] : encodeSize(request.size)),
      ...(request.timeouts === undefined ? [] : encodeTimeouts(request.timeouts)),
      ...(request.sockets === undefined ? [] : [encodeSockets(request.sockets)]),
      ...encodeIdentifier(request.identifier),
    ],
  });
}

export function encodeDisconnect(index: number): Buffer {
  return encodeGeneric({
    command: commands.DISCONNECT,
    version,
    attributes: [attributeU32(attributes.INDEX, index)],
  });
}

/** Of all devices. */
export function encodeStatus(): Buffer {
  return encodeGeneric({ command: commands.STATUS, version, attributes: [] });
}

function encodeTimeouts(timeouts: { requestSeconds: number; deadSeconds: number }): Buffer[] {
  return [
    attributeU64(attributes.TIMEOUT, timeouts.requestSeconds),
    attributeU64(attributes.DEAD_CONN_TIMEOUT, timeouts.deadSeconds),
  ];
}

function encodeSize(size: { sizeBytes: number; blockSizeBytes: number }): Buffer[] {
  return [
    attributeU64(attributes.SIZE_BYTES, size.sizeBytes),
    attributeU64(attributes.BLOCK_SIZE_BYTES, size.blockSizeBytes),
  ];
}

function encodeSockets(descriptors: readonly number[]): Buffer {
  const items = descriptors.map((fd) =>
    attributeNested(socketItem, [attributeU32(socketDescriptor, fd)]),
  );
  return attributeNested(attributes.SOCKETS, items);
}

function encodeIdentifier(identifier: string | null): Buffer[] {
  return identifier === null ? [] : [attributeString(attributes.BACKEND_IDENTIFIER, identifier)];
}

/** The index of the answer to CONNECT. */
export function decodeConnected(payload: Buffer): number | null {
  return decodeIndex(payload, commands.CONNECT);
}

/** The index of an event LINK_DEAD; null for any other event. */
export function decodeLinkDead(payload: Buffer): number | null {
  return decodeIndex(payload, commands.LINK_DEAD);
}

function decodeIndex(payload: Buffer, command: number): number | null {
  const message = decodeGeneric(payload);
  return message?.command === command ? findNumber(message.attributes, attributes.INDEX, 4) : null;
}

export function decodeStatus(payload: Buffer): NbdDeviceStatus[] | null {
  const message = decodeGeneric(payload);
  if (message?.command !== commands.STATUS) return null;
  const list = findValue(message.attributes, attributes.DEVICE_LIST);
  const items = list === null ? null : decodeAttributes(list);
  if (items === null) return null;
  const devices: NbdDeviceStatus[] = [];
  for (const item of items) {
    if (item.type !== deviceItem) continue;
    const fields = decodeAttributes(item.value) ?? [];
    const index = findNumber(fields, deviceAttributes.INDEX, 4);
    const connected = findNumber(fields, deviceAttributes.CONNECTED, 1);
    if (index === null || connected === null) return null;
    devices.push({ index, connected: connected !== 0 });
  }
  return devices;
}
