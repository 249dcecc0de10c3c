/**
 * The server's side of the handshake: takes one event of the option parser after the other and says what to
 * send and how to go on. Knows exports, not sockets. A device that it opened belongs to whoever gets the
 * outcome. There is no TLS, so nothing ever answers TLS_REQD (proto.md, "NOTLS mode").
 */
import type { Logger } from '../base/logger.ts';
import type { BlockDevice, ExportInfo, ExportProvider } from '../volumes/block-device.ts';
import { VolumeError } from '../volumes/errors.ts';
import { optionErrorOf } from './errors.ts';
import {
  decodeInfoRequest,
  decodeMetaContextRequest,
  decodeText,
  encodeExportNameReply,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerEntry,
  encodeText,
  transmissionFlagsOf,
  type InfoRequest,
} from './handshake-codec.ts';
import type { HandshakeEvent } from './option-parser.ts';
import { allocationContext, infoTypes, optionReplies, options } from './protocol.ts';

/** What both sides agreed on. */
export interface Agreement {
  readonly exportName: string;
  readonly device: BlockDevice;
  readonly structuredReplies: boolean;
  /** The id of base:allocation when the client chose it for this export. */
  readonly allocationContextId: number | null;
}

export type NegotiationStep =
  | { readonly next: 'continue'; readonly send: Buffer[] }
  | { readonly next: 'close'; readonly send: Buffer[]; readonly why: string }
  | { readonly next: 'transmission'; readonly send: Buffer[]; readonly agreement: Agreement };

const noData = Buffer.alloc(0);
const chosenContextId = 1;
const allocationNamespace = 'base:';

export class Negotiation {
  readonly #exports: ExportProvider;
  readonly #logger: Logger;
  #noZeroes = false;
  #structuredReplies = false;
  /** The export that base:allocation was chosen for: valid for that name only. */
  #allocationFor: string | null = null;

  constructor(exports: ExportProvider, logger: Logger) {
    this.#exports = exports;
    this.#logger = logger;
  }

  async handle(event: HandshakeEvent): Promise<NegotiationStep> {
    switch (event.kind) {
      case 'flags':
        this.#noZeroes = event.noZeroes;
        return proceed([]);
      case 'tooBig':
        if (event.option === options.EXPORT_NAME) return close([], 'the export name is too long');
        return refuse(event.option, optionReplies.ERR_TOO_BIG, 'the option has too much data');
      case 'option':
        return await this.#option(event.option, event.data);
    }
  }

  async #option(option: number, data: Buffer): Promise<NegotiationStep> {
    switch (option) {
      case options.EXPORT_NAME:
        return await this.#exportName(data);
      case options.ABORT:
        return close([acknowledge(option)], 'the client aborted the handshake');
      case options.LIST:
        return await this.#list(data);
      case options.STARTTLS:
        if (data.length > 0)
          return refuse(option, optionReplies.ERR_INVALID, 'STARTTLS has no data');
        return refuse(option, optionReplies.ERR_UNSUP, 'this server has no TLS');
      case options.INFO:
      case options.GO:
        return await this.#info(option, data);
      case options.STRUCTURED_REPLY:
        if (data.length > 0)
          return refuse(option, optionReplies.ERR_INVALID, 'the option has no data');
        this.#structuredReplies = true;
        return proceed([acknowledge(option)]);
      case options.LIST_META_CONTEXT:
      case options.SET_META_CONTEXT:
        return await this.#metaContext(option, data);
      default:
        return refuse(option, optionReplies.ERR_UNSUP, 'unknown option');
    }
  }

  async #exportName(data: Buffer): Promise<NegotiationStep> {
    const exportName = decodeText(data);
    if (exportName === null) return close([], 'the export name is not valid');
    try {
      const device = await this.#open(exportName);
      const flags = transmissionFlagsOf(device);
      const reply = encodeExportNameReply(device.sizeBytes, flags, !this.#noZeroes);
      return this.#agreed([reply], exportName, device);
    } catch (error) {
      // The option has no error reply: ending the session is all that the protocol permits.
      return close([], this.#messageOf(error));
    }
  }

  async #list(data: Buffer): Promise<NegotiationStep> {
    const option = options.LIST;
    if (data.length > 0) return refuse(option, optionReplies.ERR_INVALID, 'LIST has no data');
    try {
      const exports = await this.#exports.list();
      const entries = exports.map(({ name, description }) =>
        encodeOptionReply(option, optionReplies.SERVER, encodeServerEntry(name, description)),
      );
      return proceed([Buffer.concat([...entries, acknowledge(option)])]);
    } catch (error) {
      return refuse(option, optionErrorOf(error), this.#messageOf(error));
    }
  }

  async #info(option: number, data: Buffer): Promise<NegotiationStep> {
    const request = decodeInfoRequest(data);
    if (request === null) return refuse(option, optionReplies.ERR_INVALID, 'the data is malformed');
    try {
      if (option === options.INFO) {
        const info = await this.#exports.info(request.exportName);
        return proceed([encodeInfos(option, info, info, request), acknowledge(option)]);
      }
      return await this.#go(request);
    } catch (error) {
      return refuse(option, optionErrorOf(error), this.#messageOf(error));
    }
  }

  async #go(request: InfoRequest): Promise<NegotiationStep> {
    const { exportName, infos } = request;
    const wantsText = infos.includes(infoTypes.NAME) || infos.includes(infoTypes.DESCRIPTION);
    const info = wantsText ? await this.#exports.info(exportName) : null;
    const device = await this.#open(exportName);
    const send = [encodeInfos(options.GO, device, info, request), acknowledge(options.GO)];
    return this.#agreed(send, exportName, device);
  }

  async #open(exportName: string): Promise<BlockDevice> {
    const device = await this.#exports.open(exportName);
    if (!device.revoked.aborted) return device;
    await device.close();
    throw new VolumeError('FENCED', `open export ${JSON.stringify(exportName)}: it was revoked`);
  }

  #agreed(send: Buffer[], exportName: string, device: BlockDevice): NegotiationStep {
    const chosen = this.#structuredReplies && this.#allocationFor === exportName;
    const agreement: Agreement = {
      exportName,
      device,
      structuredReplies: this.#structuredReplies,
      allocationContextId: chosen ? chosenContextId : null,
    };
    return { next: 'transmission', send, agreement };
  }

  async #metaContext(option: number, data: Buffer): Promise<NegotiationStep> {
    const setting = option === options.SET_META_CONTEXT;
    // A new SET replaces the last one, even when it fails.
    if (setting) this.#allocationFor = null;
    const request = decodeMetaContextRequest(data);
    if (request === null) return refuse(option, optionReplies.ERR_INVALID, 'the data is malformed');
    if (!this.#structuredReplies) {
      return refuse(option, optionReplies.ERR_INVALID, 'structured replies come first');
    }
    const { exportName, queries } = request;
    try {
      await this.#exports.info(exportName);
    } catch (error) {
      return refuse(option, optionErrorOf(error), this.#messageOf(error));
    }
    const all = !setting && (queries.length === 0 || queries.includes(allocationNamespace));
    if (!all && !queries.includes(allocationContext)) return proceed([acknowledge(option)]);
    if (setting) this.#allocationFor = exportName;
    const context = encodeMetaContext(setting ? chosenContextId : 0, allocationContext);
    const reply = encodeOptionReply(option, optionReplies.META_CONTEXT, context);
    return proceed([reply, acknowledge(option)]);
  }

  /** Only our own errors are written for others to read. */
  #messageOf(error: unknown): string {
    if (error instanceof VolumeError) return error.message;
    this.#logger.error('export lookup failed', { error });
    return 'internal error';
  }
}

/** `info` is absent when nobody asked for its texts. */
function encodeInfos(
  option: number,
  facts: { sizeBytes: number; readOnly: boolean },
  info: ExportInfo | null,
  request: InfoRequest,
): Buffer {
  const infos = [encodeInfoExport(facts), encodeInfoBlockSize()];
  if (info !== null && request.infos.includes(infoTypes.NAME)) {
    infos.push(encodeInfoText(infoTypes.NAME, info.name));
  }
  if (info !== null && request.infos.includes(infoTypes.DESCRIPTION)) {
    infos.push(encodeInfoText(infoTypes.DESCRIPTION, info.description));
  }
  return Buffer.concat(infos.map((each) => encodeOptionReply(option, optionReplies.INFO, each)));
}

function proceed(send: Buffer[]): NegotiationStep {
  return { next: 'continue', send };
}

function close(send: Buffer[], why: string): NegotiationStep {
  return { next: 'close', send, why };
}

function refuse(option: number, type: number, message: string): NegotiationStep {
  return proceed([encodeOptionReply(option, type, encodeText(message))]);
}

function acknowledge(option: number): Buffer {
  return encodeOptionReply(option, optionReplies.ACK, noData);
}
