/** Blocks of 4 KiB whose content tells which block of which version they are: what is read is right, old or wrong. */
import type { NbdClient } from '../../src/nbd/client.ts';

export const blockBytes = 4096;

export function knownBlock(block: number, version = 1): Buffer {
  return Buffer.alloc(blockBytes, `block ${block} of version ${version}; `);
}

export function knownBlocks(first: number, count: number, version = 1): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, i) => knownBlock(first + i, version)));
}

/** Writes blocks in requests of at most 256 KiB, several in flight. */
export async function writeBlocks(
  client: NbdClient,
  first: number,
  count: number,
  version = 1,
): Promise<void> {
  const perRequest = 64;
  const requests: Promise<void>[] = [];
  for (let at = first; at < first + count; at += perRequest) {
    const length = Math.min(perRequest, first + count - at);
    requests.push(client.write(at * blockBytes, knownBlocks(at, length, version)));
    if (requests.length >= 16) await requests.shift();
  }
  await Promise.all(requests);
}

/** The blocks of the range that do not read as that version: empty when all is well. Rejects as reading does. */
export async function wrongBlocks(
  client: NbdClient,
  first: number,
  count: number,
  version = 1,
): Promise<number[]> {
  const wrong: number[] = [];
  const perRequest = 256;
  for (let at = first; at < first + count; at += perRequest) {
    const length = Math.min(perRequest, first + count - at);
    const data = await client.read(at * blockBytes, length * blockBytes);
    for (let i = 0; i < length; i++) {
      const found = data.subarray(i * blockBytes, (i + 1) * blockBytes);
      if (!found.equals(knownBlock(at + i, version))) wrong.push(at + i);
    }
  }
  return wrong;
}
