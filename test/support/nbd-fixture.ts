/** An NbdServer on a unix socket in a temporary folder, over memory; `close` leaves nothing behind. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../src/base/logger.ts';
import { NbdServer, type NbdServerOptions } from '../../src/nbd/server.ts';
import { formatNbdUri, type NbdAddress } from '../../src/nbd/uri.ts';
import { MemoryExports } from './memory-device.ts';

export interface NbdFixture {
  readonly server: NbdServer;
  readonly exports: MemoryExports;
  readonly address: NbdAddress;
  readonly folder: string;
  uri(exportName: string): string;
  close(): Promise<void>;
}

export async function startNbdFixture(
  options: Partial<NbdServerOptions> = {},
): Promise<NbdFixture> {
  const folder = await mkdtemp(join(tmpdir(), 'nbd-'));
  const exports = new MemoryExports();
  const server = new NbdServer({ exports, logger: silentLogger, ...options });
  const address = await server.listen({ kind: 'unix', path: join(folder, 'nbd.sock') });
  return {
    server,
    exports,
    address,
    folder,
    uri: (exportName) => formatNbdUri({ address, exportName }),
    close: async () => {
      await server.close({ graceMs: 0, drainMs: 500 });
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Waits until `condition` holds; an error after two seconds. */
export async function eventually(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 2000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`it did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
