/** The rules of leases, as a suite that runs wherever a pool's memory comes from. */
import { describe, expect, test } from '@jest/globals';
import type { Arena } from './buffer-arena.ts';
import { BufferPool, LeaseError, transfer, type LeaseFailure } from './buffer-pool.ts';

export function describeBufferPool(name: string, makeArena: () => Arena | undefined): void {
  describe(`BufferPool on ${name}`, () => {
    const make = (options = {}): BufferPool => {
      const arena = makeArena();
      return new BufferPool(arena === undefined ? options : { arena, ...options });
    };

    test('a lease has its size, is writable, and keeps what was written', () => {
      const pool = make();
      for (const sizeBytes of [0, 1, 4096, 70_000, 1_048_576, 3_000_000]) {
        const lease = pool.alloc(sizeBytes);
        expect(lease.sizeBytes).toBe(sizeBytes);
        expect(lease.data().length).toBe(sizeBytes);
        lease.data().fill(0xa5);
        expect(lease.data().every((byte) => byte === 0xa5)).toBe(true);
      }
      pool.close();
    });

    test('leases never overlap', () => {
      const pool = make();
      const leases = Array.from({ length: 100 }, (_, index) => pool.alloc((index % 5) * 3000));
      for (const [index, lease] of leases.entries()) lease.begin(64).fill(index);
      for (const lease of leases) lease.end();
      for (const [index, lease] of leases.entries()) {
        expect(lease.data().every((byte) => byte === index)).toBe(true);
      }
      pool.close();
    });

    test('header and payload leave in one piece', () => {
      const pool = make({ headroomBytes: 28 });
      const lease = pool.alloc(5);
      lease.data().write('hello');
      const frame = lease.begin(16);
      frame.write('0123456789abcdef');
      expect(frame.toString()).toBe('0123456789abcdefhello');
      lease.end();
      expect(lease.data().toString()).toBe('hello');
      expect(failureOf(() => lease.begin(29))).toBe('bad-size');
      expect(lease.state).toBe('owned');
      pool.close();
    });

    test('in flight it cannot be touched, freed or sent again; afterwards it can', async () => {
      const pool = make();
      const lease = pool.alloc(10);
      const gate = Promise.withResolvers<string>();
      const sent = transfer(lease, 8, () => gate.promise);
      expect(lease.state).toBe('in-flight');
      expect(failureOf(() => lease.data())).toBe('in-flight');
      expect(failureOf(() => lease.begin())).toBe('in-flight');
      expect(failureOf(() => lease.free())).toBe('in-flight');
      expect(failureOf(() => pool.free(lease))).toBe('in-flight');
      gate.resolve('done');
      expect(await sent).toBe('done');
      expect(lease.state).toBe('owned');
      lease.data().fill(1);
      await transfer(lease, 0, () => Promise.resolve());
      lease.free();
      expect(lease.state).toBe('freed');
      pool.close();
    });

    test('a failed operation gives it back too', async () => {
      const pool = make();
      const lease = pool.alloc(10);
      await expect(transfer(lease, 0, () => Promise.reject(new Error('lost')))).rejects.toThrow(
        'lost',
      );
      expect(lease.state).toBe('owned');
      pool.close();
    });

    test('nothing works after it was freed, not even freeing it', () => {
      const pool = make();
      const lease = pool.alloc(10);
      pool.free(lease);
      expect(failureOf(() => lease.data())).toBe('freed');
      expect(failureOf(() => lease.begin())).toBe('freed');
      expect(failureOf(() => lease.free())).toBe('freed');
      expect(failureOf(() => pool.free(lease))).toBe('freed');
      pool.close();
    });

    test('another pool refuses it', () => {
      const [mine, other] = [make(), make()];
      const lease = mine.alloc(10);
      expect(failureOf(() => other.free(lease))).toBe('foreign');
      expect(lease.state).toBe('owned');
      mine.close();
      other.close();
    });

    test('closing frees what was forgotten, ends the pool, and can be repeated', () => {
      const pool = make();
      const leases = [pool.alloc(10), pool.alloc(5000)];
      expect(pool.statistics.leaseCount).toBe(2);
      pool.close();
      pool.close();
      expect(pool.statistics.leaseCount).toBe(0);
      for (const lease of leases) expect(failureOf(() => lease.data())).toBe('freed');
      expect(failureOf(() => pool.alloc(1))).toBe('closed');
    });

    test('closing leaves the memory of a running operation alone', async () => {
      const arena = makeArena();
      const pool = new BufferPool(arena === undefined ? {} : { arena });
      const lease = pool.alloc(4096);
      let frame: Buffer | undefined;
      const gate = Promise.withResolvers<undefined>();
      const sent = transfer(lease, 0, (bytes) => {
        frame = bytes.fill(7);
        return gate.promise;
      });
      pool.close();
      expect(lease.state).toBe('freed');
      const later = new BufferPool(arena === undefined ? {} : { arena });
      for (let index = 0; index < 100; index++) later.alloc(4096).data().fill(9);
      expect(frame?.every((byte) => byte === 7)).toBe(true);
      gate.resolve(undefined);
      await sent;
      expect(failureOf(() => lease.data())).toBe('freed');
      later.close();
    });

    test.each([-1, 0.5, NaN, 101, Infinity])('size %d is refused', (sizeBytes) => {
      const pool = make({ sizeBytesMax: 100 });
      expect(failureOf(() => pool.alloc(sizeBytes))).toBe('bad-size');
      pool.close();
    });
  });
}

function failureOf(run: () => unknown): LeaseFailure | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof LeaseError) return error.failure;
    throw error;
  }
  return undefined;
}
