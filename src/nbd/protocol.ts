/**
 * The numbers of the NBD protocol (fixed newstyle), as doc/proto.md of NetworkBlockDevice/nbd lists them.
 * Only numbers live here: how they are laid out in bytes is in handshake-codec.ts and transmission-codec.ts.
 * 64-bit magics are kept as two 32-bit halves, since no 64-bit value of the protocol is ever calculated with
 * except offsets and sizes, which fit a double whenever they are valid.
 */

/** "NBDMAGIC": the first 8 bytes of a server. */
export const serverMagic = { high: 0x4e42444d, low: 0x41474943 } as const;
/** "IHAVEOPT": the next 8 bytes, and the first of every option request. */
export const optionMagic = { high: 0x49484156, low: 0x454f5054 } as const;
/** The first 8 bytes of every option reply. */
export const optionReplyMagic = { high: 0x0003e889, low: 0x045565a9 } as const;
export const requestMagic = 0x25609513;
export const simpleReplyMagic = 0x67446698;
export const structuredReplyMagic = 0x668e33ef;

export const requestHeaderBytes = 28;
export const simpleReplyBytes = 16;
export const structuredHeaderBytes = 20;
export const optionHeaderBytes = 16;
export const optionReplyHeaderBytes = 20;

export const handshakeFlags = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const;

export const options = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

const errorBit = 0x8000_0000;
export const optionReplies = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: errorBit + 1,
  ERR_POLICY: errorBit + 2,
  ERR_INVALID: errorBit + 3,
  ERR_PLATFORM: errorBit + 4,
  ERR_TLS_REQD: errorBit + 5,
  ERR_UNKNOWN: errorBit + 6,
  ERR_SHUTDOWN: errorBit + 7,
  ERR_BLOCK_SIZE_REQD: errorBit + 8,
  ERR_TOO_BIG: errorBit + 9,
} as const;

export function isOptionError(replyType: number): boolean {
  return replyType >= errorBit;
}

export const infoTypes = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const transmissionFlags = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const;

export const commands = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

export const commandFlags = {
  FUA: 1 << 0,
  NO_HOLE: 1 << 1,
  DF: 1 << 2,
  REQ_ONE: 1 << 3,
  FAST_ZERO: 1 << 4,
} as const;

export const chunkFlags = { DONE: 1 << 0 } as const;

const chunkErrorBit = 1 << 15;
export const chunkTypes = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: chunkErrorBit + 1,
  ERROR_OFFSET: chunkErrorBit + 2,
} as const;

export function isErrorChunk(type: number): boolean {
  return (type & chunkErrorBit) !== 0;
}

/** Error numbers of replies: the protocol's own, whatever the errno of the host. */
export const nbdErrors = {
  OK: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdError = (typeof nbdErrors)[keyof typeof nbdErrors];

/** Bits of a base:allocation status descriptor. */
export const allocationFlags = { HOLE: 1 << 0, ZERO: 1 << 1 } as const;
export const allocationContext = 'base:allocation';

/** What the server promises to clients: any alignment, 4 KiB preferred, at most 32 MiB of payload. */
export const blockSizes = { minimum: 1, preferred: 4096, maximum: 32 * 1024 * 1024 } as const;

/** The protocol's limit for every string: names, descriptions, messages, queries. */
export const maxStringBytes = 4096;

/** EXPORT_NAME ends with so many zeroes, unless both sides agreed on NO_ZEROES. */
export const exportNameZeroBytes = 124;

/** The protocol's limit for the descriptors of one status chunk. */
export const maxStatusDescriptors = 2 ** 20;

const twoTo32 = 2 ** 32;

/** A number above 2^53 loses low bits here, which is harmless: it is past the end of any device. */
export function readUint64(buffer: Buffer, at: number): number {
  return buffer.readUInt32BE(at) * twoTo32 + buffer.readUInt32BE(at + 4);
}

export function writeUint64(buffer: Buffer, value: number, at: number): number {
  buffer.writeUInt32BE(Math.floor(value / twoTo32), at);
  return buffer.writeUInt32BE(value % twoTo32, at + 4);
}
