/** nbdkit over a sparse file, as the volumedriver of attach tests: it can be killed, stopped, grown and watched. */
import type { ChildProcess } from 'node:child_process';
import { open, readFile, rm, stat, truncate } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { formatNbdUri } from '../../src/nbd/uri.ts';
import type { ContractServer, ServerRequest } from '../../src/attacher/attacher-contract.ts';
import type { AttachSandbox } from './attach-cleanup.ts';

export class NbdkitServer implements ContractServer {
  readonly dataPath: string;
  readonly #sandbox: AttachSandbox;
  readonly #socketPath: string;
  readonly #logPath: string;
  readonly #more: readonly string[];
  #child: ChildProcess | undefined;

  /** nbdkit answers each connection by 16 threads unless told otherwise. */
  constructor(sandbox: AttachSandbox, name: string, options: { threads?: number } = {}) {
    this.#more = options.threads === undefined ? [] : ['--threads', String(options.threads)];
    this.#sandbox = sandbox;
    this.dataPath = join(sandbox.path, `${name}.data`);
    this.#socketPath = join(sandbox.path, `${name}.sock`);
    this.#logPath = join(sandbox.path, `${name}.log`);
  }

  uri(exportName: string): string {
    return formatNbdUri({ address: { kind: 'unix', path: this.#socketPath }, exportName });
  }

  async create(sizeBytes: number): Promise<void> {
    await (await open(this.dataPath, 'w')).close();
    await truncate(this.dataPath, sizeBytes);
  }

  /** With `only`, all other exports are refused. Serves on when it serves already. */
  async start(only?: string): Promise<void> {
    if (this.#isRunning()) return;
    await rm(this.#socketPath, { force: true });
    const filters = ['--filter=log', ...(only === undefined ? [] : ['--filter=exportname'])];
    const parameters = [this.dataPath, `logfile=${this.#logPath}`, 'logappend=true'];
    if (only !== undefined) parameters.push(`exportname=${only}`, 'exportname-strict=true');
    const where = ['--foreground', '--unix', this.#socketPath];
    const args = [...where, ...this.#more, ...filters, 'file', ...parameters];
    let output = '';
    const child = this.#sandbox.spawn('nbdkit', args, (text) => (output += text));
    this.#child = child;
    for (let attempt = 0; attempt < 200; attempt++) {
      if (await accepts(this.#socketPath)) return;
      if (child.exitCode !== null) break;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    throw new Error(`nbdkit does not start: ${output}`);
  }

  #isRunning(): boolean {
    return this.#child?.exitCode === null && this.#child.signalCode === null;
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.#isRunning()) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }

  pause(): void {
    this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    this.#child?.kill('SIGCONT');
  }

  async setSizeBytes(sizeBytes: number): Promise<void> {
    await truncate(this.dataPath, sizeBytes);
  }

  async count(request: ServerRequest): Promise<number> {
    const log = await readFile(this.#logPath, 'utf8').catch(() => '');
    return log
      .split('\n')
      .filter((line) => line.includes(` ${request} id=`) && line.endsWith('...')).length;
  }

  /** Bytes that the data takes on disk. */
  async allocatedBytes(): Promise<number> {
    return (await stat(this.dataPath)).blocks * 512;
  }
}

async function accepts(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}
