/**
 * The volumedriver of the built product as one real process, with a data directory and a backend of its own, which a
 * test starts, ends and starts again. Nothing restarts it. Everything lives in one AttachSandbox.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { VolumedriverClient } from '../../src/api/volumedriver-client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { formatNbdUri } from '../../src/nbd/uri.ts';
import { AttachSandbox } from './attach-cleanup.ts';

export const product = resolve(import.meta.dirname, '../../bin/volumedriver-csi');
export const vdctl = resolve(import.meta.dirname, '../../bin/vdctl');
export const MiB = 2 ** 20;
const startMs = 30_000;

export interface ProductOptions {
  readonly sandbox?: AttachSandbox;
  /** Below the sandbox's folder unless given. */
  readonly dataDirectory?: string;
  readonly backendDirectory?: string;
  readonly flags?: readonly string[];
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A line of the product's log. */
export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly [field: string]: unknown;
}

export class Product {
  readonly sandbox: AttachSandbox;
  readonly dataDirectory: string;
  readonly backendDirectory: string;
  readonly apiPath: string;
  readonly nbdPath: string;
  readonly #options: ProductOptions;
  #volumes: VolumedriverClient | undefined;
  #child: ChildProcess | undefined;
  #ended: Promise<Ended> = Promise.resolve({ code: 0, signal: null });
  #output = '';

  private constructor(options: ProductOptions, sandbox: AttachSandbox) {
    this.#options = options;
    this.sandbox = sandbox;
    this.dataDirectory = options.dataDirectory ?? join(sandbox.path, 'data');
    this.backendDirectory = options.backendDirectory ?? join(sandbox.path, 'backend');
    this.apiPath = join(sandbox.path, 'run/api.sock');
    this.nbdPath = join(sandbox.path, 'run/nbd.sock');
  }

  static async open(options: ProductOptions = {}): Promise<Product> {
    const made = new Product(options, options.sandbox ?? (await AttachSandbox.open()));
    try {
      await mkdir(join(made.sandbox.path, 'run'), { recursive: true, mode: 0o700 });
      await made.start();
      return made;
    } catch (error) {
      await made.close();
      throw error;
    }
  }

  get volumes(): VolumedriverClient {
    // A new one after each start: no channel waits out its back-off from while nobody answered.
    this.#volumes ??= new VolumedriverClient({ kind: 'unix', path: this.apiPath });
    return this.#volumes;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** The command line of the volumedriver, without the program. */
  get args(): string[] {
    const { dataDirectory, backendDirectory } = this;
    const storage = ['--data-dir', dataDirectory, '--backend', `file:${backendDirectory}`];
    const sockets = ['--nbd', `unix:${this.nbdPath}`, '--api', `unix:${this.apiPath}`];
    return ['volumedriver', ...storage, ...sockets, ...(this.#options.flags ?? [])];
  }

  /** Resolves when it is ready. */
  async start(): Promise<void> {
    const child = this.sandbox.spawn(product, this.args, (text) => {
      this.#output += text;
    });
    this.#child = child;
    let gone = false;
    this.#ended = new Promise((settle) => {
      child.once('close', (code: number | null, signal: NodeJS.Signals | null) => {
        gone = true;
        if (this.#child === child) this.#child = undefined;
        settle({ code, signal });
      });
    });
    this.#volumes?.close();
    this.#volumes = undefined;
    await eventually('the volumedriver is ready', startMs, async () => {
      if (gone) throw new Error(`the volumedriver does not start: ${this.#output.slice(-2000)}`);
      return (await this.volumes.info().catch(() => undefined))?.ready === true;
    });
  }

  /** Sends the signal and resolves when the process has ended; kills and fails it after `limitMs`. */
  async stop(signal: 'SIGTERM' | 'SIGKILL', limitMs = 60_000): Promise<Ended> {
    const { pid } = this;
    if (pid === 0) return await this.#ended;
    this.#child = undefined;
    process.kill(pid, signal);
    const late = new AbortController();
    const kill = systemClock.sleep(limitMs, late.signal).then(
      () => {
        process.kill(pid, 'SIGKILL');
        return true;
      },
      () => false,
    );
    const ended = await this.#ended;
    late.abort();
    if (await kill) throw new Error(`the volumedriver does not end in ${limitMs} ms`);
    return ended;
  }

  async restart(): Promise<void> {
    await this.stop('SIGTERM');
    await this.start();
  }

  uri(exportName: string): string {
    return formatNbdUri({ address: { kind: 'unix', path: this.nbdPath }, exportName });
  }

  async connect(exportName: string): Promise<NbdClient> {
    return await connectNbd(this.uri(exportName));
  }

  /** Everything it has logged so far. */
  logLines(): LogLine[] {
    return this.#output
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as LogLine);
  }

  forgetLog(): void {
    this.#output = '';
  }

  /** Ends the process, and the sandbox unless the caller brought it. */
  async close(): Promise<void> {
    this.#volumes?.close();
    if (this.#child !== undefined) await this.stop('SIGKILL');
    if (this.#options.sandbox === undefined) await this.sandbox.close();
  }
}

/** Asks until the answer is yes; an error at the limit. */
export async function eventually(
  what: string,
  limitMs: number,
  question: () => Promise<boolean> | boolean,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await question())) {
    if (performance.now() > deadline) throw new Error(`not after ${limitMs} ms: ${what}`);
    await systemClock.sleep(20);
  }
}
