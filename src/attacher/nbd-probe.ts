/**
 * Asks an NBD server about an export on a connection of its own (NBD_OPT_INFO, doc/proto.md "Fixed newstyle
 * negotiation"), without opening it: this tells a server that is away from one that refuses the export. One
 * handshake, no transmission, bounded in time and bytes.
 */
import { connect, type Socket } from 'node:net';
import type { Clock } from '../base/clock.ts';
import {
  handshakeFlags,
  infoTypes,
  isOptionError,
  optionMagic,
  optionReplies,
  optionReplyHeaderBytes,
  optionReplyMagic,
  options,
  readUint64,
  serverMagic,
  transmissionFlags,
} from '../nbd/protocol.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import { VolumeError } from '../volumes/errors.ts';
import { withTimeLimit } from './waiting.ts';

export type ExportProbe =
  | { readonly kind: 'offered'; readonly sizeBytes: number; readonly readOnly: boolean }
  /** Nobody answers, or not now. */
  | { readonly kind: 'unreachable'; readonly reason: string }
  /** The server is there and does not give this export. `reply` is the NBD_REP_ERR_ type. */
  | { readonly kind: 'refused'; readonly reason: string; readonly reply: number };

const replyBytesMax = 64 * 1024;
const repliesMax = 64;
const bufferBytesMax = 2 * replyBytesMax;

/** Never rejects for what the server does; INVALID_ARGUMENT for a bad URI. */
export async function probeExport(
  uri: string,
  wait: { clock: Clock; timeoutMs: number },
): Promise<ExportProbe> {
  const { address, exportName } = parseNbdUri(uri);
  const socket =
    address.kind === 'unix'
      ? connect(address.path)
      : connect({ host: address.host, port: address.port });
  try {
    const what = 'probe the NBD server';
    return await withTimeLimit(wait.clock, { timeoutMs: wait.timeoutMs, what }, (signal) =>
      negotiate(new SocketReader(socket, signal), exportName),
    );
  } catch (error) {
    return { kind: 'unreachable', reason: error instanceof Error ? error.message : String(error) };
  } finally {
    socket.destroy();
  }
}

async function negotiate(reader: SocketReader, exportName: string): Promise<ExportProbe> {
  const greeting = await reader.read(18);
  if (!isMagic(greeting, 0, serverMagic) || !isMagic(greeting, 8, optionMagic)) {
    throw new VolumeError(
      'PROTOCOL_ERROR',
      'probe the NBD server: the peer does not speak newstyle NBD',
    );
  }
  const offered = greeting.readUInt16BE(16);
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(offered & (handshakeFlags.FIXED_NEWSTYLE | handshakeFlags.NO_ZEROES));
  reader.write(Buffer.concat([flags, infoRequest(exportName)]));
  let found: ExportProbe | null = null;
  for (let count = 0; count < repliesMax; count++) {
    const { type, payload } = await readOptionReply(reader);
    if (isOptionError(type)) return refusal(type, payload.toString('utf8'));
    if (type === optionReplies.ACK) {
      reader.write(optionHeader(options.ABORT, 0));
      if (found !== null) return found;
      break;
    }
    found = parseExportInfo(type, payload) ?? found;
  }
  throw new VolumeError('PROTOCOL_ERROR', 'probe the NBD server: it described no export');
}

/** NBD_OPT_INFO; asking for block sizes keeps a server with a larger minimum from refusing (proto.md). */
function infoRequest(exportName: string): Buffer {
  const name = Buffer.from(exportName);
  const data = Buffer.alloc(4 + name.length + 4);
  data.writeUInt32BE(name.length, 0);
  name.copy(data, 4);
  data.writeUInt16BE(1, 4 + name.length);
  data.writeUInt16BE(infoTypes.BLOCK_SIZE, 6 + name.length);
  return Buffer.concat([optionHeader(options.INFO, data.length), data]);
}

function optionHeader(option: number, lengthBytes: number): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32BE(optionMagic.high, 0);
  header.writeUInt32BE(optionMagic.low, 4);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(lengthBytes, 12);
  return header;
}

async function readOptionReply(reader: SocketReader): Promise<{ type: number; payload: Buffer }> {
  const header = await reader.read(optionReplyHeaderBytes);
  const lengthBytes = header.readUInt32BE(16);
  if (!isMagic(header, 0, optionReplyMagic) || lengthBytes > replyBytesMax) {
    throw new VolumeError('PROTOCOL_ERROR', 'probe the NBD server: its option reply is malformed');
  }
  const payload = lengthBytes === 0 ? Buffer.alloc(0) : await reader.read(lengthBytes);
  return { type: header.readUInt32BE(12), payload };
}

function parseExportInfo(type: number, payload: Buffer): ExportProbe | null {
  if (type !== optionReplies.INFO || payload.length < 12) return null;
  if (payload.readUInt16BE(0) !== infoTypes.EXPORT) return null;
  const flags = payload.readUInt16BE(10);
  const readOnly = (flags & transmissionFlags.READ_ONLY) !== 0;
  return { kind: 'offered', sizeBytes: readUint64(payload, 2), readOnly };
}

function refusal(type: number, message: string): ExportProbe {
  const reason = message === '' ? `NBD error reply ${type.toString(16)}` : message;
  // A server that shuts down is as good as away; the next one may serve the export.
  if (type === optionReplies.ERR_SHUTDOWN) return { kind: 'unreachable', reason };
  return { kind: 'refused', reason, reply: type };
}

function isMagic(buffer: Buffer, at: number, magic: { high: number; low: number }): boolean {
  return buffer.readUInt32BE(at) === magic.high && buffer.readUInt32BE(at + 4) === magic.low;
}

/** Gives a socket's bytes in pieces of known length, holding at most bufferBytesMax of them. */
class SocketReader {
  readonly #socket: Socket;
  readonly #signal: AbortSignal;
  #buffer = Buffer.alloc(0);
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket, signal: AbortSignal) {
    this.#socket = socket;
    this.#signal = signal;
    socket.on('data', (chunk: Buffer) => {
      this.#buffer = Buffer.concat([this.#buffer, chunk]);
      if (this.#buffer.length > bufferBytesMax) socket.destroy(closed('it sends too much'));
      this.#wake?.();
    });
    socket.on('error', (error) => {
      this.#fail(error);
    });
    socket.on('close', () => {
      this.#fail(closed('it closed the connection'));
    });
    signal.addEventListener('abort', () => {
      this.#wake?.();
    });
  }

  async read(lengthBytes: number): Promise<Buffer> {
    while (this.#buffer.length < lengthBytes) {
      this.#signal.throwIfAborted();
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const piece = this.#buffer.subarray(0, lengthBytes);
    this.#buffer = this.#buffer.subarray(lengthBytes);
    return piece;
  }

  write(data: Buffer): void {
    this.#socket.write(data);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }
}

function closed(why: string): VolumeError {
  return new VolumeError('UNAVAILABLE', `probe the NBD server: ${why}`);
}
