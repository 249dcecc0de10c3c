/**
 * A client of QEMU's machine protocol (qemu docs/interop/qmp-spec): JSON lines over a unix socket, one command at a
 * time. The daemon serves one client at once, so open, ask and close. Everything is bounded: the connection, each
 * answer's time and length. After a time-out the stream is out of step and the client is closed.
 */
import { connect, type Socket } from 'node:net';
import * as z from 'zod';
import type { Clock } from '../../base/clock.ts';
import { toVolumeError, VolumeError } from '../../volumes/errors.ts';
import { withTimeLimit } from '../waiting.ts';

const lineBytesMax = 1024 * 1024;

const errorSchema = z.object({ class: z.string(), desc: z.string() });
const greetingSchema = z.object({ QMP: z.object({}) });
const answerSchema = z.object({
  id: z.number().optional(),
  event: z.string().optional(),
  return: z.unknown().optional(),
  error: errorSchema.optional(),
});
type Answer = z.infer<typeof answerSchema>;

/** The daemon understood a command and refused it. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  /** Such as GenericError, CommandNotFound. */
  readonly errorClass: string;

  constructor(errorClass: string, description: string) {
    super(description);
    this.errorClass = errorClass;
  }
}

export interface QmpOptions {
  readonly clock: Clock;
  /** For connecting, and for each answer. */
  readonly timeoutMs: number;
}

export class QmpClient {
  readonly #socket: Socket;
  readonly #lines: LineReader;
  readonly #options: QmpOptions;
  #nextId = 1;

  private constructor(socket: Socket, options: QmpOptions) {
    this.#socket = socket;
    this.#lines = new LineReader(socket);
    this.#options = options;
  }

  /** UNAVAILABLE when nobody answers, PROTOCOL_ERROR when it is not QMP. */
  static async open(socketPath: string, options: QmpOptions): Promise<QmpClient> {
    const client = new QmpClient(connect(socketPath), options);
    try {
      const greeting = await client.#readLine('greeting');
      if (!greetingSchema.safeParse(greeting).success) {
        throw new VolumeError('PROTOCOL_ERROR', 'QMP greeting: the peer does not speak QMP');
      }
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /**
   * Runs a command and returns what it returned. INTERNAL with a QmpError as cause when it is refused; UNAVAILABLE
   * when no answer came, and then it may still have been done.
   */
  async execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    const id = this.#nextId++;
    this.#socket.write(
      `${JSON.stringify({ execute: command, id, ...(args && { arguments: args }) })}\n`,
    );
    const answer = await this.#readAnswer(command, id);
    if (answer.error !== undefined) {
      const { class: errorClass, desc } = answer.error;
      throw new VolumeError('INTERNAL', `QMP ${command}: ${desc}`, {
        cause: new QmpError(errorClass, desc),
      });
    }
    return answer.return;
  }

  close(): void {
    this.#socket.destroy();
  }

  async #readAnswer(command: string, id: number): Promise<Answer> {
    for (;;) {
      const answer = answerSchema.safeParse(await this.#readLine(command));
      if (!answer.success) return this.#protocolError(command, 'the answer has the wrong form');
      if (answer.data.event !== undefined) continue;
      if (answer.data.id !== id)
        return this.#protocolError(command, 'the answer belongs to another command');
      if (answer.data.error === undefined && answer.data.return === undefined) {
        return this.#protocolError(command, 'the answer holds neither result nor error');
      }
      return answer.data;
    }
  }

  async #readLine(command: string): Promise<unknown> {
    const what = `QMP ${command}`;
    try {
      const line = await withTimeLimit(
        this.#options.clock,
        { timeoutMs: this.#options.timeoutMs, what },
        (signal) => this.#lines.next(signal),
      );
      return JSON.parse(line);
    } catch (error) {
      this.close();
      if (error instanceof SyntaxError)
        return this.#protocolError(command, 'the answer is not JSON');
      throw toVolumeError(error, what, 'UNAVAILABLE');
    }
  }

  #protocolError(command: string, why: string): never {
    this.close();
    throw new VolumeError('PROTOCOL_ERROR', `QMP ${command}: ${why}`);
  }
}

/** Splits a socket's bytes into lines, holding at most lineBytesMax of an unfinished one. */
class LineReader {
  readonly #lines: string[] = [];
  #rest = '';
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      const parts = (this.#rest + text).split('\n');
      this.#rest = parts.pop() ?? '';
      this.#lines.push(...parts.filter((line) => line.trim() !== ''));
      if (this.#rest.length > lineBytesMax || this.#lines.length > 1000) {
        socket.destroy(new VolumeError('PROTOCOL_ERROR', 'QMP: the peer sends too much'));
      }
      this.#wake?.();
    });
    socket.on('error', (error) => {
      this.#fail(error);
    });
    socket.on('close', () => {
      this.#fail(new VolumeError('UNAVAILABLE', 'QMP: the connection was closed'));
    });
  }

  async next(signal: AbortSignal): Promise<string> {
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      if (this.#failure !== undefined) throw this.#failure;
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        signal.addEventListener(
          'abort',
          () => {
            resolve();
          },
          { once: true },
        );
      });
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }
}
