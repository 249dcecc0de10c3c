/** Runs writer.ts in the background, and tells how it fares. */
import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as z from 'zod';
import { runCommand } from '../../src/base/command.ts';
import { waitFor } from './driver.ts';

const program = join(import.meta.dirname, 'writer.ts');
const limitMs = 60_000;

const progressSchema = z.object({ records: z.number(), waitedMs: z.number() });

export class BackgroundWriter {
  /** How many records are safe: written, and fsync has returned. */
  records = 0;
  /** The longest that one record took. */
  longestWaitMs = 0;
  readonly #path: string;
  readonly #child: ChildProcess;
  #ended: { code: number | null } | null = null;
  #errors = '';

  constructor(path: string) {
    this.#path = path;
    const args = ['--no-warnings', program, 'write', path];
    // A group of its own: Ctrl-C ends the story, and the story ends this.
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: '/',
      detached: true,
    });
    this.#child = child;
    createInterface({ input: child.stdout }).on('line', (line) => {
      const { records, waitedMs } = progressSchema.parse(JSON.parse(line));
      this.records = records;
      this.longestWaitMs = Math.max(this.longestWaitMs, waitedMs);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.#errors += text));
    child.once('close', (code) => (this.#ended = { code }));
  }

  /** Rejects when the writer ends, as it does after any error. */
  async reach(records: number): Promise<void> {
    await waitFor(`${records} records`, limitMs, () => {
      this.#check();
      return Promise.resolve(this.records >= records);
    });
  }

  /** Ends it after the record that it is at. */
  async finish(): Promise<void> {
    this.#check();
    this.#child.kill('SIGTERM');
    await waitFor('the writer to end', limitMs, () => Promise.resolve(this.#ended !== null));
    if (this.#ended?.code !== 0) throw this.#failure();
  }

  /** Reads the file again and compares every record. */
  async verify(): Promise<void> {
    const args = ['--no-warnings', program, 'check', this.#path, String(this.records)];
    await runCommand(process.execPath, args, { timeoutMs: limitMs });
  }

  #check(): void {
    if (this.#ended !== null) throw this.#failure();
  }

  #failure(): Error {
    return new Error(`the writer failed after ${this.records} records: ${this.#errors.trim()}`);
  }
}
