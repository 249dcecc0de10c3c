/**
 * A program that uses a mounted volume: it appends numbered records to a file, each with fdatasync, and prints each
 * number once it is safe. A process of its own, since a file that does not answer blocks whoever asks. Any error ends
 * it, which progress() reports.
 */
import type { ChildProcess } from 'node:child_process';
import { readFileSync, unlinkSync } from 'node:fs';
import type { AttachSandbox } from './attach-cleanup.ts';
import { eventually } from './real-driver.ts';

const recordBytes = 4096;
const program = `
const fs = require('node:fs');
const fd = fs.openSync(process.argv[1], 'wx');
for (let number = 1; ; number++) {
  const record = Buffer.alloc(${recordBytes}, number % 251);
  record.writeUInt32LE(number);
  fs.writeSync(fd, record);
  fs.fdatasyncSync(fd);
  fs.writeSync(1, number + '\\n');
}`;

export class RealWriter {
  readonly #path: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  #written = 0;
  #said = '';
  #stopping = false;

  constructor(sandbox: AttachSandbox, path: string) {
    this.#path = path;
    this.#child = sandbox.spawn(process.execPath, ['-e', program, path], (text) => {
      const numbers = text.split('\n').filter((line) => /^\d+$/.test(line));
      this.#written = Math.max(this.#written, ...numbers.map(Number));
      this.#said = (this.#said + text).slice(-1000);
    });
    this.#ended = new Promise((done) => this.#child.once('close', done));
  }

  /** Waits until so many more records are safe. */
  async progress(more = 5, limitMs = 40_000): Promise<void> {
    const target = this.#written + more;
    await eventually(`a mounted volume takes ${more} records`, limitMs, () => {
      if (!this.#stopping && this.#child.exitCode !== null) {
        throw new Error(`the writer ended: ${this.#said}`);
      }
      return Promise.resolve(this.#written >= target);
    });
  }

  /** Ends the writer, and removes its file once every record of it is as it should be. */
  async finish(): Promise<void> {
    await this.progress(1);
    this.#stopping = true;
    this.#child.kill('SIGKILL');
    await this.#ended;
    const bytes = readFileSync(this.#path);
    for (let number = 1; number <= this.#written; number++) {
      const record = bytes.subarray((number - 1) * recordBytes, number * recordBytes);
      const expected = Buffer.alloc(recordBytes, number % 251);
      expected.writeUInt32LE(number);
      if (!record.equals(expected)) throw new Error(`record ${number} is missing or damaged`);
    }
    unlinkSync(this.#path);
  }
}
