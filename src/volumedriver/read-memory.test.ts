/** ReadMemory: what is out is never given out again, and what came back is. */
import { describe, expect, test } from '@jest/globals';
import { ReadMemory } from './read-memory.ts';

const slabBytes = 4 * 2 ** 20;
const MiB = 2 ** 20;

describe('ReadMemory', () => {
  test('gives each caller memory of its own', () => {
    const memory = new ReadMemory();
    const buffers = Array.from({ length: 3000 }, (_, n) => memory.take(4096).fill(n % 251));
    for (const [n, buffer] of buffers.entries()) {
      expect(buffer.equals(Buffer.alloc(4096, n % 251))).toBe(true);
    }
  });

  test('uses a slab again when all of it has come back, and not before', () => {
    const memory = new ReadMemory();
    const first = [memory.take(MiB), memory.take(MiB), memory.take(MiB), memory.take(MiB)];
    const [one, ...rest] = first;
    for (const buffer of rest) memory.giveBack(buffer);
    const second = memory.take(MiB);
    expect(second.buffer).not.toBe(one?.buffer);
    if (one !== undefined) memory.giveBack(one);
    for (let n = 0; n < 3; n++) memory.take(MiB);
    expect(memory.take(MiB).buffer).toBe(one?.buffer);
  });

  test('starts its slab over when nothing is out', () => {
    const memory = new ReadMemory();
    const slabs = new Set<ArrayBufferLike>();
    for (let n = 0; n < 100; n++) {
      const buffer = memory.take(MiB);
      slabs.add(buffer.buffer);
      memory.giveBack(buffer);
    }
    expect(slabs.size).toBe(1);
  });

  test('takes a part of a buffer for the whole', () => {
    const memory = new ReadMemory();
    const buffer = memory.take(8192);
    memory.giveBack(buffer.subarray(100, 200));
    expect(memory.take(4096).byteOffset).toBe(buffer.byteOffset);
  });

  test('does not keep long buffers, nor memory that is not its own', () => {
    const memory = new ReadMemory();
    const long = memory.take(slabBytes + 1);
    expect(long).toHaveLength(slabBytes + 1);
    expect(() => {
      memory.giveBack(long);
      memory.giveBack(Buffer.alloc(4096));
    }).not.toThrow();
  });

  test('notices a buffer that comes back twice', () => {
    const memory = new ReadMemory();
    const buffer = memory.take(4096);
    memory.giveBack(buffer);
    expect(() => {
      memory.giveBack(buffer);
    }).toThrow('a buffer comes back once');
  });
});
