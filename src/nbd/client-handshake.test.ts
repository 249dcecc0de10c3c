import { describe, expect, test } from '@jest/globals';
import { negotiate, type HandshakeStream } from './client-handshake.ts';
import { encodeGreeting, encodeInfoExport, encodeOptionReply } from './handshake-codec.ts';
import { optionHeaderBytes, optionReplies, options } from './protocol.ts';

/** A server that answers what it is told to; `asked` are the options that it got. */
class ScriptedServer implements HandshakeStream {
  readonly asked: number[] = [];
  #answers: Buffer;

  constructor(...answers: Buffer[]) {
    this.#answers = Buffer.concat(answers);
  }

  get leftBytes(): number {
    return this.#answers.length;
  }

  read(count: number): Promise<Buffer> {
    if (this.#answers.length < count) return Promise.reject(new Error('the script has ended'));
    const piece = this.#answers.subarray(0, count);
    this.#answers = this.#answers.subarray(count);
    return Promise.resolve(piece);
  }

  write(bytes: Buffer): void {
    if (bytes.length >= optionHeaderBytes) this.asked.push(bytes.readUInt32BE(8));
  }
}

const { ACK, INFO, ERR_UNSUP, ERR_UNKNOWN } = optionReplies;
const empty = Buffer.alloc(0);
const exportInfo = encodeInfoExport({ sizeBytes: 4096, readOnly: true });
const accepted = [
  encodeOptionReply(options.GO, INFO, exportInfo),
  encodeOptionReply(options.GO, ACK, empty),
];

describe('a handshake for simple replies', () => {
  test('asks for nothing but GO', async () => {
    const server = new ScriptedServer(encodeGreeting(), ...accepted);
    const agreement = await negotiate(server, 'vol', { simpleReplies: true });
    expect(server.asked).toEqual([options.GO]);
    expect(server.leftBytes).toBe(0);
    expect(agreement).toMatchObject({
      sizeBytes: 4096,
      structuredReplies: false,
      allocationContextId: null,
    });
  });

  test('falls back to EXPORT_NAME', async () => {
    const facts = Buffer.alloc(10);
    facts.writeUInt32BE(8192, 4);
    const unknown = encodeOptionReply(options.GO, ERR_UNSUP, empty);
    const server = new ScriptedServer(encodeGreeting(), unknown, facts);
    const agreement = await negotiate(server, 'vol', { simpleReplies: true });
    expect(server.asked).toEqual([options.GO, options.EXPORT_NAME]);
    expect(agreement.sizeBytes).toBe(8192);
  });

  test('is refused with the code of the refusal', async () => {
    const refusal = encodeOptionReply(options.GO, ERR_UNKNOWN, Buffer.from('no such export'));
    const server = new ScriptedServer(encodeGreeting(), refusal);
    await expect(negotiate(server, 'vol', { simpleReplies: true })).rejects.toMatchObject({
      code: 'VOLUME_NOT_FOUND',
    });
  });
});

test('without a wish, structured replies and block status are asked for first', async () => {
  const declined = encodeOptionReply(options.STRUCTURED_REPLY, ERR_UNSUP, empty);
  const server = new ScriptedServer(encodeGreeting(), declined, ...accepted);
  await negotiate(server, 'vol');
  expect(server.asked).toEqual([options.STRUCTURED_REPLY, options.GO]);
});
