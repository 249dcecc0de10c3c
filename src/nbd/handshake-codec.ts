/**
 * The messages of the handshake as bytes, for both sides. Pure. Decoders return null for data that is not
 * well formed: what that means (an error reply, a dropped connection) is the caller's to decide.
 */
import {
  blockSizes,
  exportNameZeroBytes,
  handshakeFlags,
  infoTypes,
  maxStringBytes,
  optionHeaderBytes,
  optionMagic,
  optionReplyHeaderBytes,
  optionReplyMagic,
  readUint64,
  serverMagic,
  transmissionFlags,
  writeUint64,
} from './protocol.ts';

export const greetingBytes = 18;

export function encodeGreeting(): Buffer {
  const bytes = Buffer.alloc(greetingBytes);
  writeMagic(bytes, serverMagic, 0);
  writeMagic(bytes, optionMagic, 8);
  bytes.writeUInt16BE(handshakeFlags.FIXED_NEWSTYLE | handshakeFlags.NO_ZEROES, 16);
  return bytes;
}

/** The server's handshake flags, or null when it is no newstyle server. */
export function decodeGreeting(bytes: Buffer): number | null {
  const known = hasMagic(bytes, serverMagic, 0) && hasMagic(bytes, optionMagic, 8);
  return known ? bytes.readUInt16BE(16) : null;
}

export function encodeOption(option: number, data: Buffer): Buffer {
  const header = Buffer.alloc(optionHeaderBytes);
  writeMagic(header, optionMagic, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

export function decodeOptionHeader(bytes: Buffer): { option: number; dataBytes: number } | null {
  if (!hasMagic(bytes, optionMagic, 0)) return null;
  return { option: bytes.readUInt32BE(8), dataBytes: bytes.readUInt32BE(12) };
}

export function encodeOptionReply(option: number, type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(optionReplyHeaderBytes);
  writeMagic(header, optionReplyMagic, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

export interface OptionReplyHeader {
  option: number;
  type: number;
  dataBytes: number;
}

export function decodeOptionReplyHeader(bytes: Buffer): OptionReplyHeader | null {
  if (!hasMagic(bytes, optionReplyMagic, 0)) return null;
  return {
    option: bytes.readUInt32BE(8),
    type: bytes.readUInt32BE(12),
    dataBytes: bytes.readUInt32BE(16),
  };
}

/** The answer to NBD_OPT_EXPORT_NAME, which has no header and can't tell an error. */
export function encodeExportNameReply(sizeBytes: number, flags: number, zeroes: boolean): Buffer {
  const bytes = Buffer.alloc(10 + (zeroes ? exportNameZeroBytes : 0));
  writeUint64(bytes, sizeBytes, 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

export interface ExportFacts {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/** What the server can do with an export; DF needs structured replies, but is harmless without them. */
export function transmissionFlagsOf(facts: ExportFacts): number {
  const flags =
    transmissionFlags.HAS_FLAGS |
    transmissionFlags.SEND_FLUSH |
    transmissionFlags.SEND_FUA |
    transmissionFlags.SEND_DF |
    transmissionFlags.CAN_MULTI_CONN |
    transmissionFlags.SEND_CACHE;
  if (facts.readOnly) return flags | transmissionFlags.READ_ONLY;
  return (
    flags |
    transmissionFlags.SEND_TRIM |
    transmissionFlags.SEND_WRITE_ZEROES |
    transmissionFlags.SEND_FAST_ZERO
  );
}

export function encodeInfoExport(facts: ExportFacts): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(infoTypes.EXPORT, 0);
  writeUint64(bytes, facts.sizeBytes, 2);
  bytes.writeUInt16BE(transmissionFlagsOf(facts), 10);
  return bytes;
}

export function encodeInfoBlockSize(): Buffer {
  const bytes = Buffer.alloc(14);
  bytes.writeUInt16BE(infoTypes.BLOCK_SIZE, 0);
  bytes.writeUInt32BE(blockSizes.minimum, 2);
  bytes.writeUInt32BE(blockSizes.preferred, 6);
  bytes.writeUInt32BE(blockSizes.maximum, 10);
  return bytes;
}

/** NBD_INFO_NAME and NBD_INFO_DESCRIPTION. */
export function encodeInfoText(type: number, text: string): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(type, 0);
  return Buffer.concat([bytes, encodeText(text)]);
}

export type ServerInfo =
  | { kind: 'export'; sizeBytes: number; flags: number }
  | { kind: 'blockSize'; minimum: number; preferred: number; maximum: number }
  | { kind: 'other' };

export function decodeServerInfo(data: Buffer): ServerInfo | null {
  if (data.length < 2) return null;
  const type = data.readUInt16BE(0);
  if (type === infoTypes.EXPORT) {
    if (data.length !== 12) return null;
    return { kind: 'export', sizeBytes: readUint64(data, 2), flags: data.readUInt16BE(10) };
  }
  if (type === infoTypes.BLOCK_SIZE) {
    if (data.length !== 14) return null;
    const [minimum, preferred, maximum] = [2, 6, 10].map((at) => data.readUInt32BE(at));
    return {
      kind: 'blockSize',
      minimum: minimum ?? 0,
      preferred: preferred ?? 0,
      maximum: maximum ?? 0,
    };
  }
  return { kind: 'other' };
}

/** NBD_REP_SERVER, one export of a list. */
export function encodeServerEntry(name: string, description: string): Buffer {
  return Buffer.concat([encodeString(name), encodeText(description)]);
}

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoRequest {
  exportName: string;
  infos: number[];
}

export function encodeInfoRequest(request: InfoRequest): Buffer {
  const infos = Buffer.alloc(2 + 2 * request.infos.length);
  infos.writeUInt16BE(request.infos.length, 0);
  request.infos.forEach((info, index) => infos.writeUInt16BE(info, 2 + 2 * index));
  return Buffer.concat([encodeString(request.exportName), infos]);
}

export function decodeInfoRequest(data: Buffer): InfoRequest | null {
  const name = decodeString(data, 0);
  if (name === null || data.length < name.end + 2) return null;
  const count = data.readUInt16BE(name.end);
  const start = name.end + 2;
  if (data.length !== start + 2 * count) return null;
  const infos = Array.from({ length: count }, (_, index) => data.readUInt16BE(start + 2 * index));
  return { exportName: name.text, infos };
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface MetaContextRequest {
  exportName: string;
  queries: string[];
}

export function encodeMetaContextRequest(request: MetaContextRequest): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(request.queries.length, 0);
  return Buffer.concat([
    encodeString(request.exportName),
    count,
    ...request.queries.map(encodeString),
  ]);
}

export function decodeMetaContextRequest(data: Buffer): MetaContextRequest | null {
  const name = decodeString(data, 0);
  if (name === null || data.length < name.end + 4) return null;
  const count = data.readUInt32BE(name.end);
  const queries: string[] = [];
  let at = name.end + 4;
  // Each query takes at least 4 bytes, so a huge count ends at the first one that is not there.
  for (let index = 0; index < count; index++) {
    const query = decodeString(data, at);
    if (query === null) return null;
    queries.push(query.text);
    at = query.end;
  }
  return at === data.length ? { exportName: name.text, queries } : null;
}

/** NBD_REP_META_CONTEXT. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(id, 0);
  return Buffer.concat([bytes, encodeText(name)]);
}

export function decodeMetaContext(data: Buffer): { id: number; name: string } | null {
  if (data.length < 4) return null;
  return { id: data.readUInt32BE(0), name: data.subarray(4).toString('utf8') };
}

/** The text of an error reply or chunk: UTF-8 without its length, cut at the protocol's limit. */
export function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return bytes.length <= maxStringBytes ? bytes : bytes.subarray(0, maxStringBytes);
}

/** The name of NBD_OPT_EXPORT_NAME, or null when it is too long or not UTF-8. */
export function decodeText(bytes: Buffer): string | null {
  if (bytes.length > maxStringBytes) return null;
  const text = bytes.toString('utf8');
  return Buffer.byteLength(text) === bytes.length && Buffer.from(text, 'utf8').equals(bytes)
    ? text
    : null;
}

function encodeString(text: string): Buffer {
  const bytes = encodeText(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length, 0);
  return Buffer.concat([length, bytes]);
}

function decodeString(data: Buffer, at: number): { text: string; end: number } | null {
  if (data.length < at + 4) return null;
  const end = at + 4 + data.readUInt32BE(at);
  if (data.length < end) return null;
  const text = decodeText(data.subarray(at + 4, end));
  return text === null ? null : { text, end };
}

interface Magic {
  readonly high: number;
  readonly low: number;
}

function writeMagic(bytes: Buffer, magic: Magic, at: number): void {
  bytes.writeUInt32BE(magic.high, at);
  bytes.writeUInt32BE(magic.low, at + 4);
}

function hasMagic(bytes: Buffer, magic: Magic, at: number): boolean {
  return bytes.readUInt32BE(at) === magic.high && bytes.readUInt32BE(at + 4) === magic.low;
}
