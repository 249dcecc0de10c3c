/**
 * The client's side of the handshake: structured replies and base:allocation where the server has them, then GO,
 * or EXPORT_NAME with a server that does not know GO. Works on any stream of bytes; the server is not trusted.
 */
import { VolumeError } from '../volumes/errors.ts';
import { codeOfOptionError } from './errors.ts';
import {
  decodeGreeting,
  decodeMetaContext,
  decodeOptionReplyHeader,
  decodeServerInfo,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  greetingBytes,
} from './handshake-codec.ts';
import {
  allocationContext,
  blockSizes,
  exportNameZeroBytes,
  handshakeFlags,
  infoTypes,
  isOptionError,
  optionReplies,
  optionReplyHeaderBytes,
  options,
  readUint64,
} from './protocol.ts';

export interface HandshakeStream {
  /** Rejects when the connection is lost or the handshake takes too long. */
  read(count: number): Promise<Buffer>;
  write(bytes: Buffer): void;
}

/** What the server said about the export. */
export interface ClientAgreement {
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly structuredReplies: boolean;
  readonly allocationContextId: number | null;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maximumPayloadBytes: number;
}

const maxReplyBytes = 64 * 1024;
const maxRepliesPerOption = 256;

export interface NegotiateOptions {
  /** Ask for nothing that changes the replies: for a client that knows simple replies only, such as Linux. */
  readonly simpleReplies?: boolean;
}

/** VOLUME_NOT_FOUND, VOLUME_IN_USE and others as the server answers; PROTOCOL_ERROR when it talks nonsense. */
export async function negotiate(
  stream: HandshakeStream,
  exportName: string,
  { simpleReplies = false }: NegotiateOptions = {},
): Promise<ClientAgreement> {
  const handshake = new ClientHandshake(stream, exportName);
  await handshake.greet();
  const structuredReplies = !simpleReplies && (await handshake.askStructuredReplies());
  const allocationContextId = structuredReplies ? await handshake.askAllocation() : null;
  const facts = (await handshake.go()) ?? (await handshake.exportName());
  return { ...facts, structuredReplies, allocationContextId };
}

interface Reply {
  type: number;
  data: Buffer;
}

type Facts = Omit<ClientAgreement, 'structuredReplies' | 'allocationContextId'>;

class ClientHandshake {
  readonly #stream: HandshakeStream;
  readonly #exportName: string;
  #noZeroes = false;

  constructor(stream: HandshakeStream, exportName: string) {
    this.#stream = stream;
    this.#exportName = exportName;
  }

  async greet(): Promise<void> {
    const flags = decodeGreeting(await this.#stream.read(greetingBytes));
    if (flags === null) throw this.#broken('it is no newstyle NBD server');
    if ((flags & handshakeFlags.FIXED_NEWSTYLE) === 0) {
      throw new VolumeError('NOT_CAPABLE', `${this.#what()}: the server has no fixed newstyle`);
    }
    this.#noZeroes = (flags & handshakeFlags.NO_ZEROES) !== 0;
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags & (handshakeFlags.FIXED_NEWSTYLE | handshakeFlags.NO_ZEROES));
    this.#stream.write(answer);
  }

  async askStructuredReplies(): Promise<boolean> {
    this.#stream.write(encodeOption(options.STRUCTURED_REPLY, Buffer.alloc(0)));
    const replies = await this.#replies(options.STRUCTURED_REPLY);
    return replies.at(-1)?.type === optionReplies.ACK;
  }

  async askAllocation(): Promise<number | null> {
    const queries = [allocationContext];
    const data = encodeMetaContextRequest({ exportName: this.#exportName, queries });
    this.#stream.write(encodeOption(options.SET_META_CONTEXT, data));
    const replies = await this.#replies(options.SET_META_CONTEXT);
    if (replies.at(-1)?.type !== optionReplies.ACK) return null;
    for (const reply of replies) {
      if (reply.type !== optionReplies.META_CONTEXT) continue;
      const context = decodeMetaContext(reply.data);
      if (context === null) throw this.#broken('a metadata context is malformed');
      if (context.name === allocationContext) return context.id;
    }
    return null;
  }

  /** Null when the server does not know the option. */
  async go(): Promise<Facts | null> {
    const request = { exportName: this.#exportName, infos: [infoTypes.BLOCK_SIZE] };
    this.#stream.write(encodeOption(options.GO, encodeInfoRequest(request)));
    const replies = await this.#replies(options.GO);
    const last = replies.at(-1);
    if (last?.type === optionReplies.ERR_UNSUP) return null;
    if (last === undefined || isOptionError(last.type)) throw this.#refused(last);
    return this.#factsOf(replies);
  }

  async exportName(): Promise<Facts> {
    this.#stream.write(encodeOption(options.EXPORT_NAME, Buffer.from(this.#exportName)));
    const bytes = await this.#stream.read(10 + (this.#noZeroes ? 0 : exportNameZeroBytes));
    return this.#checked({
      sizeBytes: readUint64(bytes, 0),
      transmissionFlags: bytes.readUInt16BE(8),
      ...defaultBlocks,
    });
  }

  #factsOf(replies: Reply[]): Facts {
    let facts: Facts | null = null;
    let blocks: Blocks = defaultBlocks;
    for (const reply of replies) {
      if (reply.type !== optionReplies.INFO) continue;
      const info = decodeServerInfo(reply.data);
      if (info === null) throw this.#broken('an information is malformed');
      if (info.kind === 'export') {
        facts = { sizeBytes: info.sizeBytes, transmissionFlags: info.flags, ...blocks };
      } else if (info.kind === 'blockSize') {
        blocks = {
          minimumBlockBytes: info.minimum,
          preferredBlockBytes: info.preferred,
          maximumPayloadBytes: Math.min(info.maximum, blockSizes.maximum),
        };
      }
    }
    if (facts === null) throw this.#broken('the server did not tell the size');
    return this.#checked({ ...facts, ...blocks });
  }

  #checked(facts: Facts): Facts {
    if (Number.isSafeInteger(facts.sizeBytes)) return facts;
    throw this.#broken(`a size of ${facts.sizeBytes} bytes is not possible`);
  }

  /** All replies to an option; the last one is ACK or an error. */
  async #replies(option: number): Promise<Reply[]> {
    const replies: Reply[] = [];
    while (replies.length < maxRepliesPerOption) {
      const header = decodeOptionReplyHeader(await this.#stream.read(optionReplyHeaderBytes));
      if (header === null) throw this.#broken('an option reply has the wrong magic');
      if (header.option !== option) throw this.#broken('a reply is for another option');
      if (header.dataBytes > maxReplyBytes) throw this.#broken('an option reply is too long');
      const data = header.dataBytes === 0 ? noData : await this.#stream.read(header.dataBytes);
      replies.push({ type: header.type, data });
      if (header.type === optionReplies.ACK || isOptionError(header.type)) return replies;
    }
    throw this.#broken('an option has too many replies');
  }

  #what(): string {
    return `open NBD export ${JSON.stringify(this.#exportName)}`;
  }

  #refused(reply: Reply | undefined): VolumeError {
    const text = reply?.data.toString('utf8') ?? '';
    const why = text === '' ? 'the server refused it' : text;
    return new VolumeError(codeOfOptionError(reply?.type ?? 0), `${this.#what()}: ${why}`);
  }

  #broken(why: string): VolumeError {
    return new VolumeError('PROTOCOL_ERROR', `${this.#what()}: ${why}`);
  }
}

const noData = Buffer.alloc(0);

type Blocks = Pick<
  ClientAgreement,
  'minimumBlockBytes' | 'preferredBlockBytes' | 'maximumPayloadBytes'
>;

/** What a server that says nothing means (proto.md, "Block size constraints"). */
const defaultBlocks: Blocks = {
  minimumBlockBytes: blockSizes.minimum,
  preferredBlockBytes: blockSizes.preferred,
  maximumPayloadBytes: blockSizes.maximum,
};
