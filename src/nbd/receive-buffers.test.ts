import { describe, expect, test } from '@jest/globals';
import { PayloadPool, ReceiveBuffers, type PayloadOwner } from './receive-buffers.ts';

describe('receive buffers', () => {
  test('memory is used again at once when nobody retains it', () => {
    const buffers = new ReceiveBuffers();
    const first = buffers.next();
    buffers.received(1000);
    expect(buffers.next().byteOffset).toBe(first.byteOffset);
  });

  test('retained memory is never handed out again before it is released', () => {
    const buffers = new ReceiveBuffers();
    const held: { buffer: ArrayBufferLike; from: number; to: number; release: () => void }[] = [];
    for (let round = 0; round < 200; round++) {
      const next = buffers.next();
      const [from, to] = [next.byteOffset, next.byteOffset + next.length];
      for (const each of held) {
        expect(each.buffer === next.buffer && from < each.to && each.from < to).toBe(false);
      }
      const count = 1 + ((round * 7919) % next.length);
      buffers.received(count);
      const { owner } = buffers;
      owner.retain();
      held.push({ buffer: next.buffer, from, to: from + count, release: () => owner.release() });
      if (round % 3 === 0) held.shift()?.release();
    }
    for (const each of held) each.release();
  });

  test('are exhausted when 64 MiB are retained, until some are released', () => {
    const buffers = new ReceiveBuffers();
    const owners: PayloadOwner[] = [];
    while (!buffers.exhausted) {
      buffers.received(buffers.next().length);
      buffers.owner.retain();
      owners.push(buffers.owner);
      expect(owners.length).toBeLessThanOrEqual(128);
    }
    expect(owners).toHaveLength(128);
    owners[0]?.release();
    expect(buffers.exhausted).toBe(false);
  });
});

describe('payload pool', () => {
  test('a released buffer is taken again, one in use is not', () => {
    const pool = new PayloadPool(2 ** 22);
    const first = pool.take(100_000);
    expect(first.bytes).toHaveLength(100_000);
    const second = pool.take(100_000);
    expect(second.bytes.buffer).not.toBe(first.bytes.buffer);
    first.owner.release();
    expect(pool.take(120_000).bytes.buffer).toBe(first.bytes.buffer);
  });

  test('what the pool has no room for comes from the heap, and goes back there', () => {
    const pool = new PayloadPool(2 ** 18);
    const taken = [pool.take(2 ** 17), pool.take(2 ** 17), pool.take(2 ** 17)];
    const beyond = taken[2]?.bytes.buffer;
    for (const { owner } of taken) owner.release();
    const again = [pool.take(2 ** 17), pool.take(2 ** 17), pool.take(2 ** 17)];
    expect(again.some(({ bytes }) => bytes.buffer === beyond)).toBe(false);
  });
});
