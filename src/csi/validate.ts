/**
 * What holds for every request before anything is looked up: the specification's size limits ("Size Limits" in
 * its section on field requirements), applied to the whole request. What a single RPC requires beyond that is
 * checked by its handler with the functions below. Everything here rejects with INVALID_ARGUMENT.
 */
import { VolumeError } from '../volumes/errors.ts';

export const stringBytesMax = 128;
export const nodeIdBytesMax = 256;
export const mapBytesMax = 4096;
export const mountFlagsBytesMax = 4096;
/** The specification asks for at least 128; this is the kernel's PATH_MAX, its closing zero taken off. */
export const pathBytesMax = 4095;

const mapFields = new Set([
  'parameters',
  'mutableParameters',
  'secrets',
  'volumeContext',
  'publishContext',
  'segments',
]);
const pathFields = new Set(['stagingTargetPath', 'targetPath', 'volumePath', 'volumePublishPath']);

export function checkLimits(request: unknown): void {
  if (isRecord(request)) checkMessage('', request);
}

function checkMessage(prefix: string, message: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(message)) {
    if (name === '$case') continue;
    // A oneof is {$case, value}: its value goes by the name of its case.
    const known =
      name === 'value' && typeof message['$case'] === 'string' ? message['$case'] : name;
    checkField(`${prefix}${snakeCase(known)}`, known, value);
  }
}

function checkField(label: string, name: string, value: unknown): void {
  if (typeof value === 'string') {
    checkString(label, value, limitOf(name));
  } else if (Array.isArray(value)) {
    if (name === 'mountFlags') checkMountFlags(label, value);
    else value.forEach((item: unknown, index) => checkField(`${label}[${index}]`, name, item));
  } else if (isRecord(value)) {
    if (mapFields.has(name)) checkMap(label, value);
    else if (typeof value['$case'] === 'string') checkMessage(parentOf(label), value);
    else checkMessage(`${label}.`, value);
  }
}

function limitOf(name: string): number {
  if (name === 'nodeId') return nodeIdBytesMax;
  return pathFields.has(name) ? pathBytesMax : stringBytesMax;
}

function checkString(label: string, value: string, bytesMax: number): void {
  const length = Buffer.byteLength(value);
  if (length > bytesMax)
    throw invalid(label, `it has ${length} bytes and at most ${bytesMax} are allowed`);
}

function checkMap(label: string, map: Record<string, unknown>): void {
  let length = 0;
  for (const [key, value] of Object.entries(map)) {
    length += Buffer.byteLength(key) + (typeof value === 'string' ? Buffer.byteLength(value) : 0);
  }
  if (length > mapBytesMax)
    throw invalid(label, `it has ${length} bytes and at most ${mapBytesMax} are allowed`);
}

function checkMountFlags(label: string, flags: readonly unknown[]): void {
  const length = flags.reduce<number>((sum, flag) => sum + Buffer.byteLength(String(flag)), 0);
  if (length > mountFlagsBytesMax) {
    throw invalid(label, `they have ${length} bytes and at most ${mountFlagsBytesMax} are allowed`);
  }
}

/** Returns the value of a required string field. */
export function requireString(field: string, value: string): string {
  if (value === '') throw invalid(field, 'it is required');
  return value;
}

/** Returns the value of a required message field. */
export function requireMessage<Message>(field: string, value: Message | undefined): Message {
  if (value === undefined) throw invalid(field, 'it is required');
  return value;
}

/** The limit of a page; undefined when the caller leaves it to us. */
export function pageLimit(maxEntries: number): number | undefined {
  if (maxEntries < 0)
    throw invalid('max_entries', `it must not be negative, and it is ${maxEntries}`);
  return maxEntries === 0 ? undefined : maxEntries;
}

/** An INVALID_ARGUMENT about one field, named as in the proto file. */
export function invalid(field: string, why: string): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `${field}: ${why}`);
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** `a.b.` of `a.b.c`: a oneof has no name on the wire. */
function parentOf(label: string): string {
  return label.slice(0, label.lastIndexOf('.') + 1);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date)
  );
}
