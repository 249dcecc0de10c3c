/**
 * Our own NbdServer over memory, in this process, as the volumedriver of attach tests: unlike nbdkit's, its open
 * connections follow the size, as the product's do.
 */
import { join } from 'node:path';
import type { ContractServer } from '../../src/attacher/attacher-contract.ts';
import { silentLogger } from '../../src/base/logger.ts';
import { NbdServer } from '../../src/nbd/server.ts';
import { formatNbdUri, type NbdAddress } from '../../src/nbd/uri.ts';
import type { AttachSandbox } from './attach-cleanup.ts';
import { MemoryExports, MemoryStorage } from './memory-device.ts';

export class MemoryServer implements ContractServer {
  readonly #address: NbdAddress;
  readonly #storage: MemoryStorage;
  readonly #exports = new MemoryExports();
  #server: NbdServer | undefined;

  constructor(sandbox: AttachSandbox, name: string, sizeBytes: number) {
    this.#address = { kind: 'unix', path: join(sandbox.path, `${name}.sock`) };
    this.#storage = new MemoryStorage(sizeBytes);
  }

  /** Serves the export from now on. */
  uri(exportName: string): string {
    this.#exports.add(exportName, this.#storage);
    return formatNbdUri({ address: this.#address, exportName });
  }

  async start(): Promise<void> {
    this.#server = new NbdServer({ exports: this.#exports, logger: silentLogger });
    await this.#server.listen(this.#address);
  }

  async kill(): Promise<void> {
    await this.#server?.close({ graceMs: 0, drainMs: 0 });
    this.#server = undefined;
  }

  setSizeBytes(sizeBytes: number): Promise<void> {
    this.#storage.sizeBytes = sizeBytes;
    return Promise.resolve();
  }

  pause(): void {
    throw new Error('a server in this process cannot be paused');
  }

  resume(): void {
    // It never pauses.
  }

  count(): Promise<number> {
    throw new Error('a server in this process does not count');
  }
}
