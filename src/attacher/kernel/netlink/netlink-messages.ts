/**
 * Messages of netlink(7) and generic netlink: headers, attributes, and the controller that knows the families. Pure
 * functions over bytes; integers are little-endian, the byte order of the machines that this runs on. Whatever is
 * malformed decodes to null: these bytes come from outside.
 */
import { endianness } from 'node:os';
import { assert } from '../../../base/assert.ts';

assert(
  endianness() === 'LE',
  'netlink has the byte order of the machine, and only this one is written here',
);

export const messageTypes = { ERROR: 2, DONE: 3, CONTROLLER: 16 } as const;
export const messageFlags = { REQUEST: 1, ACK: 4 } as const;

const headerBytes = 16;
const genericHeaderBytes = 4;
const attributeHeaderBytes = 4;
const nestedFlag = 0x8000;
const typeMask = 0x3fff;
const attributeMaxBytes = 0xffff;

export interface NetlinkMessage {
  /** One of messageTypes or the id of a family. */
  readonly type: number;
  readonly flags: number;
  /** That of the request that it answers; 0 for events. */
  readonly sequence: number;
  readonly payload: Buffer;
}

export interface Attribute {
  readonly type: number;
  readonly value: Buffer;
}

export interface GenericMessage {
  readonly command: number;
  readonly version: number;
  readonly attributes: readonly Attribute[];
}

export interface NetlinkFamily {
  /** The type of its messages. */
  readonly id: number;
  readonly version: number;
  /** The highest attribute that it knows. */
  readonly maxAttribute: number;
  /** Ids of multicast groups by their names. */
  readonly groups: ReadonlyMap<string, number>;
}

function aligned(bytes: number): number {
  return (bytes + 3) & ~3;
}

export function encodeMessage(message: NetlinkMessage): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(headerBytes + message.payload.length, 0);
  header.writeUInt16LE(message.type, 4);
  header.writeUInt16LE(message.flags, 6);
  header.writeUInt32LE(message.sequence, 8);
  // The sender's port at 12 stays 0: the kernel knows it.
  return Buffer.concat([header, message.payload]);
}

/** All messages of one datagram. */
export function decodeMessages(datagram: Buffer): NetlinkMessage[] | null {
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (at < datagram.length) {
    if (datagram.length - at < headerBytes) return null;
    const length = datagram.readUInt32LE(at);
    if (length < headerBytes || length > datagram.length - at) return null;
    messages.push({
      type: datagram.readUInt16LE(at + 4),
      flags: datagram.readUInt16LE(at + 6),
      sequence: datagram.readUInt32LE(at + 8),
      payload: datagram.subarray(at + headerBytes, at + length),
    });
    at += Math.min(aligned(length), datagram.length - at);
  }
  return messages;
}

/** The errno that a message of type ERROR carries, as a positive number; 0 is an acknowledgement. */
export function decodeErrno(payload: Buffer): number | null {
  if (payload.length < 4) return null;
  const error = payload.readInt32LE();
  return error <= 0 ? Math.abs(error) : null;
}

export function encodeGeneric(message: {
  command: number;
  version: number;
  attributes: readonly Buffer[];
}): Buffer {
  const header = Buffer.from([message.command, message.version, 0, 0]);
  return Buffer.concat([header, ...message.attributes]);
}

export function decodeGeneric(payload: Buffer): GenericMessage | null {
  const attributes = decodeAttributes(payload.subarray(genericHeaderBytes));
  const [command, version] = payload;
  if (payload.length < genericHeaderBytes || attributes === null) return null;
  return { command: command ?? 0, version: version ?? 0, attributes };
}

/** One attribute, padded to the next one. */
export function attribute(type: number, value: Buffer): Buffer {
  const length = attributeHeaderBytes + value.length;
  assert(length <= attributeMaxBytes, 'an attribute is below 64 KiB');
  const bytes = Buffer.alloc(aligned(length));
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(type, 2);
  value.copy(bytes, attributeHeaderBytes);
  return bytes;
}

export function attributeU32(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return attribute(type, bytes);
}

export function attributeU64(type: number, value: number): Buffer {
  assert(Number.isSafeInteger(value) && value >= 0, 'an unsigned integer');
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return attribute(type, bytes);
}

/** With the zero byte that ends it. */
export function attributeString(type: number, value: string): Buffer {
  return attribute(type, Buffer.from(`${value}\0`));
}

export function attributeNested(type: number, children: readonly Buffer[]): Buffer {
  return attribute(type | nestedFlag, Buffer.concat(children));
}

/** In their order; a type may occur more than once. */
export function decodeAttributes(bytes: Buffer): Attribute[] | null {
  const attributes: Attribute[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (bytes.length - at < attributeHeaderBytes) return null;
    const length = bytes.readUInt16LE(at);
    if (length < attributeHeaderBytes || length > bytes.length - at) return null;
    const type = bytes.readUInt16LE(at + 2) & typeMask;
    attributes.push({ type, value: bytes.subarray(at + attributeHeaderBytes, at + length) });
    at += Math.min(aligned(length), bytes.length - at);
  }
  return attributes;
}

export function findValue(attributes: readonly Attribute[], type: number): Buffer | null {
  return attributes.findLast((each) => each.type === type)?.value ?? null;
}

/** An unsigned integer of exactly `bytes` bytes; null when it is missing or has another size. */
export function findNumber(
  attributes: readonly Attribute[],
  type: number,
  bytes: 1 | 2 | 4,
): number | null {
  const value = findValue(attributes, type);
  return value?.length === bytes ? value.readUIntLE(0, bytes) : null;
}

const controllerVersion = 1;
const controllerCommands = { NEWFAMILY: 1, GETFAMILY: 3 };
const controllerAttributes = {
  FAMILY_ID: 1,
  FAMILY_NAME: 2,
  VERSION: 3,
  MAXATTR: 5,
  MCAST_GROUPS: 7,
};
const groupAttributes = { NAME: 1, ID: 2 };

/** The payload of a request to the controller for a family, by its name. ENOENT when there is none. */
export function encodeGetFamily(name: string): Buffer {
  return encodeGeneric({
    command: controllerCommands.GETFAMILY,
    version: controllerVersion,
    attributes: [attributeString(controllerAttributes.FAMILY_NAME, name)],
  });
}

export function decodeFamily(payload: Buffer): NetlinkFamily | null {
  const message = decodeGeneric(payload);
  if (message?.command !== controllerCommands.NEWFAMILY) return null;
  const id = findNumber(message.attributes, controllerAttributes.FAMILY_ID, 2);
  const version = findNumber(message.attributes, controllerAttributes.VERSION, 4);
  const maxAttribute = findNumber(message.attributes, controllerAttributes.MAXATTR, 4);
  const list = findValue(message.attributes, controllerAttributes.MCAST_GROUPS);
  const groups = list === null ? new Map<string, number>() : decodeGroups(list);
  if (id === null || version === null || maxAttribute === null || groups === null) return null;
  return { id, version, maxAttribute, groups };
}

function decodeGroups(list: Buffer): Map<string, number> | null {
  const groups = new Map<string, number>();
  for (const item of decodeAttributes(list) ?? [null]) {
    const fields = item === null ? null : decodeAttributes(item.value);
    if (fields === null) return null;
    const name = findValue(fields, groupAttributes.NAME);
    const id = findNumber(fields, groupAttributes.ID, 4);
    if (name === null || id === null) return null;
    groups.set(decodeString(name), id);
  }
  return groups;
}

/** Up to the zero byte that ends it. */
function decodeString(value: Buffer): string {
  const end = value.indexOf(0);
  return value.toString('utf8', 0, end < 0 ? value.length : end);
}
