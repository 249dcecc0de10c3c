/**
 * The NBD client that no library lets one be: it sends any bytes, reads or does not read, and leaves as it
 * likes. For tests of the server's bad days.
 */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { encodeInfoRequest, encodeOption } from '../../src/nbd/handshake-codec.ts';
import { ByteQueue } from '../../src/nbd/byte-queue.ts';
import { optionReplies, options } from '../../src/nbd/protocol.ts';
import { encodeRequest } from '../../src/nbd/transmission-codec.ts';
import type { NbdAddress } from '../../src/nbd/uri.ts';

const waitMs = 5000;

export interface Place {
  offset?: number;
  length?: number;
  flags?: number;
}

export interface OptionAnswer {
  option: number;
  type: number;
  data: Buffer;
}

export class RawNbdClient {
  readonly socket: Socket;
  readonly #queue = new ByteQueue();
  #closed = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => this.#queue.push(chunk));
    socket.on('error', () => (this.#closed = true));
    socket.on('close', () => (this.#closed = true));
    socket.on('end', () => (this.#closed = true));
  }

  static async connect(address: NbdAddress): Promise<RawNbdClient> {
    const socket =
      address.kind === 'unix'
        ? createConnection({ path: address.path })
        : createConnection({ host: address.host, port: address.port });
    const client = new RawNbdClient(socket);
    await once(socket, 'connect');
    return client;
  }

  /** Connects, greets, and opens the export with GO. */
  static async open(
    address: NbdAddress,
    exportName: string,
    { structured = false } = {},
  ): Promise<RawNbdClient> {
    const client = await RawNbdClient.connect(address);
    await client.greet();
    if (structured) await client.option(options.STRUCTURED_REPLY, Buffer.alloc(0));
    await client.go(exportName);
    return client;
  }

  get closed(): boolean {
    return this.#closed;
  }

  get waitingBytes(): number {
    return this.#queue.length;
  }

  send(...pieces: Buffer[]): void {
    this.socket.write(Buffer.concat(pieces));
  }

  /** Exactly `count` bytes; an error when the server closes first or takes too long. */
  async read(count: number): Promise<Buffer> {
    const deadline = Date.now() + waitMs;
    while (this.#queue.length < count) {
      if (this.#closed) throw new Error(`closed with ${this.#queue.length} of ${count} bytes`);
      if (Date.now() > deadline) throw new Error(`got ${this.#queue.length} of ${count} bytes`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    return this.#queue.take(count);
  }

  async greet(flags = 3): Promise<Buffer> {
    const greeting = await this.read(18);
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(flags);
    this.send(bytes);
    return greeting;
  }

  async answer(): Promise<OptionAnswer> {
    const header = await this.read(20);
    const data = await this.read(header.readUInt32BE(16));
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  /** Sends an option and returns its answers up to ACK or an error. */
  async option(option: number, data: Buffer): Promise<OptionAnswer[]> {
    this.send(encodeOption(option, data));
    const answers: OptionAnswer[] = [];
    for (;;) {
      const answer = await this.answer();
      answers.push(answer);
      if (answer.type === optionReplies.ACK || answer.type >= 0x8000_0000) return answers;
    }
  }

  async go(exportName: string): Promise<OptionAnswer[]> {
    const answers = await this.option(options.GO, encodeInfoRequest({ exportName, infos: [] }));
    if (answers.at(-1)?.type !== optionReplies.ACK) throw new Error(`no export ${exportName}`);
    return answers;
  }

  request(command: number, cookie: number, place: Place): void {
    const { offset = 0, length = 0, flags = 0 } = place;
    this.send(encodeRequest({ flags, command, cookieHigh: 7, cookieLow: cookie, offset, length }));
  }

  write(cookie: number, offset: number, payload: Buffer, flags = 0): void {
    this.request(1, cookie, { offset, length: payload.length, flags });
    this.send(payload);
  }

  /** A simple reply's error and cookie. */
  async simple(): Promise<{ error: number; cookie: number }> {
    const bytes = await this.read(16);
    if (bytes.readUInt32BE(0) !== 0x67446698) throw new Error('no simple reply');
    return { error: bytes.readUInt32BE(4), cookie: bytes.readUInt32BE(12) };
  }

  async chunk(): Promise<{ done: boolean; type: number; cookie: number; payload: Buffer }> {
    const bytes = await this.read(20);
    if (bytes.readUInt32BE(0) !== 0x668e33ef) throw new Error('no structured reply');
    const payload = await this.read(bytes.readUInt32BE(16));
    const [done, type] = [bytes.readUInt16BE(4) === 1, bytes.readUInt16BE(6)];
    return { done, type, cookie: bytes.readUInt32BE(12), payload };
  }

  /** Resolves when the server has closed; an error when it does not in time. */
  async gone(): Promise<void> {
    const deadline = Date.now() + waitMs;
    while (!this.#closed) {
      if (Date.now() > deadline) throw new Error('the server keeps the connection');
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  destroy(): void {
    this.socket.destroy();
  }
}
