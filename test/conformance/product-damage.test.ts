/**
 * What a product that trusts its disk, or only says that it frees space, would fail: damage in the backend is an I/O
 * error and never wrong data, and what was trimmed is a hole. Against the built product.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { runCommand } from '../../src/base/command.ts';
import type { NbdClient } from '../../src/nbd/client.ts';
import { hasCode } from '../../src/volumes/errors.ts';
import { blockBytes, knownBlock, writeBlocks, wrongBlocks } from '../support/known-blocks.ts';
import { MiB, Product } from '../support/product.ts';
import { describeRequires } from '../support/requires.ts';

const limitMs = 120_000;
const blocks = (40 * MiB) / blockBytes;

describeRequires(['tool:nbdinfo'], 'holes', () => {
  let product: Product;
  beforeAll(async () => {
    product = await Product.open();
  }, limitMs);
  afterAll(async () => {
    await product.close();
  });

  interface Extent {
    offset: number;
    length: number;
    type: number;
  }
  async function map(id: string): Promise<Extent[]> {
    const args = ['--map', '--json', product.uri(id)];
    const { stdout } = await runCommand('nbdinfo', args, { timeoutMs: 20_000 });
    return (JSON.parse(stdout) as Extent[]).map(({ offset, length, type }) => ({
      offset,
      length,
      type,
    }));
  }
  // NBD's base:allocation: 3 is a hole that reads as zeroes, 0 is data.
  const hole = (fromMiB: number, toMiB: number): Extent => extent(fromMiB, toMiB, 3);
  const data = (fromMiB: number, toMiB: number): Extent => extent(fromMiB, toMiB, 0);
  function extent(fromMiB: number, toMiB: number, type: number): Extent {
    return { offset: fromMiB * MiB, length: (toMiB - fromMiB) * MiB, type };
  }

  test(
    'are there before a write, after a trim and after zeroes that need no space; data is after a write',
    async () => {
      const { id } = await product.volumes.createVolume({ name: 'holes', sizeBytes: 16 * MiB });
      expect(await map(id)).toEqual([hole(0, 16)]);
      const client = await product.connect(id);
      await writeBlocks(client, 0, (12 * MiB) / blockBytes);
      expect(await map(id)).toEqual([data(0, 12), hole(12, 16)]);
      const { usedBytes } = await product.volumes.getVolume(id);
      await client.trim(2 * MiB, MiB);
      await client.writeZeroes(5 * MiB, MiB);
      await client.writeZeroes(8 * MiB, MiB, { allocate: true });
      const punched = [data(0, 2), hole(2, 3), data(3, 5), hole(5, 6), data(6, 12), hole(12, 16)];
      expect(await map(id)).toEqual(punched);
      expect((await product.volumes.getVolume(id)).usedBytes).toBe(usedBytes - 2 * MiB);
      for (const at of [2, 5, 8]) {
        const zeroes = await client.read(at * MiB, MiB);
        expect(zeroes.equals(Buffer.alloc(MiB))).toBe(true);
      }
      await client.disconnect();
      await product.restart();
      expect(await map(id)).toEqual(punched);
      const again = await product.connect(id);
      await again.write(2 * MiB, knownBlock(512));
      await again.disconnect();
      const [first, second] = await map(id);
      expect([first, second]).toEqual([
        { offset: 0, length: 2 * MiB + blockBytes, type: 0 },
        { offset: 2 * MiB + blockBytes, length: MiB - blockBytes, type: 3 },
      ]);
    },
    limitMs,
  );
});

/** Inverts a byte of a file and returns how to put it right again. */
function flip(path: string, offset: number): () => void {
  const content = readFileSync(path);
  const damaged = Buffer.from(content);
  damaged[offset] = (content[offset] ?? 0) ^ 0xff;
  writeFileSync(path, damaged);
  return () => {
    writeFileSync(path, content);
  };
}

/** Which blocks cannot be read; those that can must be right. */
async function unreadable(client: NbdClient): Promise<number[]> {
  const failed: number[] = [];
  const perRead = 64;
  for (let first = 0; first < blocks; first += perRead) {
    try {
      expect(await wrongBlocks(client, first, perRead)).toEqual([]);
    } catch (error) {
      expect(hasCode(error, 'INTERNAL')).toBe(true); // EIO
      for (let block = first; block < first + perRead; block++) {
        const read = client.read(block * blockBytes, blockBytes);
        const found = await read.catch(() => undefined);
        if (found === undefined) failed.push(block);
        else if (!found.equals(knownBlock(block))) throw new Error(`wrong data in block ${block}`);
      }
    }
  }
  return failed;
}

describe('one flipped byte', () => {
  let product: Product;
  let volumeId = '';
  /** Every object in the backend, with the blocks that it holds in the order of its bytes; none in a map object. */
  let objects: { path: string; offsets: Map<number, number> }[] = [];

  beforeAll(async () => {
    product = await Product.open({ flags: ['--map-memory', '1MiB'] });
    volumeId = (await product.volumes.createVolume({ name: 'v', sizeBytes: 64 * MiB })).id;
    const client = await product.connect(volumeId);
    await writeBlocks(client, 0, blocks);
    await client.disconnect();
    await product.stop('SIGTERM');
    const known = new Map(
      Array.from({ length: blocks }, (_, block) => [knownBlock(block).toString('latin1'), block]),
    );
    objects = globSync(`${product.backendDirectory}/objects/*/*`).map((path) => {
      const content = readFileSync(path);
      const offsets = new Map<number, number>();
      for (let at = 0; at + blockBytes <= content.length; at += blockBytes) {
        const block = known.get(content.toString('latin1', at, at + blockBytes));
        if (block !== undefined) offsets.set(block, at);
      }
      return { path, offsets };
    });
  }, limitMs);
  afterAll(async () => {
    await product.close();
  });

  const dataObjects = (): typeof objects => objects.filter(({ offsets }) => offsets.size > 0);
  const mapObjects = (): typeof objects => objects.filter(({ offsets }) => offsets.size === 0);

  test(
    'in each stored SCO is an error for its block alone, and is logged as damage',
    async () => {
      const all = dataObjects();
      expect(all.length).toBeGreaterThanOrEqual(3);
      expect(all.reduce((sum, { offsets }) => sum + offsets.size, 0)).toBe(blocks);
      const victims = all.map(({ path, offsets }, i) => {
        const held = [...offsets];
        const [block, offset] = held[Math.floor((held.length * (i + 1)) / (all.length + 1))] ?? [
          0, 0,
        ];
        return { block, mend: flip(path, offset + 1000 * i + 7) };
      });
      product.forgetLog();
      await product.start();
      try {
        const client = await product.connect(volumeId);
        const failed = await unreadable(client);
        expect(failed).toEqual(victims.map(({ block }) => block).sort((a, b) => a - b));
        // Damage is an error of the block, not of the volume: it can be written again, and everything else goes on.
        const [first] = failed;
        await client.write((first ?? 0) * blockBytes, knownBlock(first ?? 0));
        await client.flush();
        expect(await unreadable(client)).toEqual(failed.slice(1));
        await client.disconnect();
        const logged = product.logLines().filter(({ level }) => level === 'error');
        expect(logged).toContainEqual(
          expect.objectContaining({
            code: 'CORRUPT',
            exportName: volumeId,
            error: expect.stringMatching(/object [0-9a-f-]+: its checksum is wrong/),
          }),
        );
      } finally {
        for (const { mend } of victims) mend();
        await product.stop('SIGTERM');
      }
    },
    limitMs,
  );

  test(
    'anywhere in a map object never leads to wrong data',
    async () => {
      expect(mapObjects().length).toBeGreaterThan(0);
      let noticed = 0;
      for (const { path } of mapObjects()) {
        const sizeBytes = readFileSync(path).length;
        for (const offset of [1, Math.floor(sizeBytes / 3), sizeBytes - 100]) {
          const mend = flip(path, offset);
          await product.start();
          try {
            // A volume whose root is damaged does not open at all.
            const client = await product.connect(volumeId).catch(() => undefined);
            if (client === undefined) noticed++;
            else {
              if ((await unreadable(client)).length > 0) noticed++;
              await client.disconnect();
            }
          } finally {
            await product.stop('SIGTERM');
            mend();
          }
        }
      }
      expect(noticed).toBeGreaterThan(0);
      await product.start();
      const client = await product.connect(volumeId);
      expect(await unreadable(client)).toEqual([]);
      await client.disconnect();
    },
    limitMs,
  );
});
