/**
 * Runs in a guest that loses its power at any moment: starts the volumedriver over the guest's disk, checks what came
 * back, and goes on writing. Every flush is reported once it was acknowledged. `stop` ends it properly instead.
 */
import { join } from 'node:path';
import type { NbdClient } from '../../src/nbd/client.ts';
import { NumberedWrites } from './numbered-writes.ts';
import { MiB, RealDriver } from './real-driver.ts';
import { SeededRandom } from './seeded-random.ts';
import { guestDiskPath, report } from './uml.ts';

export interface PowerCutInput {
  readonly seed: number;
  /** The first write of each life so far; this life starts behind what is found. */
  readonly lives: readonly number[];
  /** The last write whose flush was reported. */
  readonly flushed: number;
  /** Check only. */
  readonly stop: boolean;
}

export type PowerCutReport =
  { starting: true } | { recovered: number } | { flushed: number } | { failed: true };

const volume = 'volume';
const sizeBytes = 8 * MiB;
const clusterBytes = 4096;
const readBytes = MiB;

const input = JSON.parse(process.argv[2] ?? '') as PowerCutInput;
const tell = (what: PowerCutReport): void => {
  report(what);
};
await main();

async function main(): Promise<void> {
  tell({ starting: true });
  const driver = await RealDriver.open({
    roles: ['volumedriver'],
    dataDirectory: join(guestDiskPath, 'data'),
    backendDirectory: join(guestDiskPath, 'store'),
    volumedriverFlags: ['--map-memory', '16MiB', '--read-cache', '16MiB', '--reserve', '8MiB'],
  });
  await driver.volumes.createVolume({ name: volume, sizeBytes });
  const client = await driver.connect(volume);
  const clusterCount = sizeBytes / clusterBytes;
  const { seed, lives } = input;
  const found = new NumberedWrites({ seed, clusterCount, lives });
  const recovered = found.lastOf(await readAll(client), input.flushed);
  tell({ recovered });
  if (!input.stop) {
    const writes = new NumberedWrites({ seed, clusterCount, lives: [...lives, recovered + 1] });
    await writeOn(client, writes, recovered);
  }
  await client.disconnect();
  await driver.close();
}

async function readAll(client: NbdClient): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; at < sizeBytes; at += readBytes) parts.push(await client.read(at, readBytes));
  return Buffer.concat(parts);
}

/** A few writes at a time, which reach the volumedriver in their order; some of them are followed by a flush. */
async function writeOn(client: NbdClient, writes: NumberedWrites, last: number): Promise<never> {
  const random = new SeededRandom(input.seed + input.lives.length);
  for (let number = last; ;) {
    const requests: Promise<void>[] = [];
    for (let rest = 1 + random.integer(8); rest > 0; rest--) {
      const write = writes.write(++number);
      const fua = rest === 1 && random.chance(0.2);
      const sent = client.write(write.cluster * clusterBytes, writes.content(write), { fua });
      const told = number;
      requests.push(fua ? sent.then(() => tell({ flushed: told })) : sent);
    }
    await Promise.all(requests);
    if (random.chance(0.5)) {
      await client.flush();
      tell({ flushed: number });
    }
  }
}
