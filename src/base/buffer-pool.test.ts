import { describe, expect, test } from '@jest/globals';
import { SlabArena } from './buffer-arena.ts';
import { describeBufferPool } from './buffer-pool-contract.ts';
import { BufferPool, LeaseError } from './buffer-pool.ts';

describeBufferPool('the heap', () => undefined);
describeBufferPool('an arena', () => new SlabArena({ bytesMax: 4 * 1024 * 1024 }));
describeBufferPool(
  'shared memory',
  () => new SlabArena({ bytesMax: 4 * 1024 * 1024, shared: true }),
);
describeBufferPool('an arena that is too small', () => new SlabArena({ bytesMax: 10_000 }));

describe('SlabArena', () => {
  test('memory is used again, and not more than its bound', () => {
    const arena = new SlabArena({ bytesMax: 1024 * 1024 });
    const pool = new BufferPool({ arena });
    for (let round = 0; round < 1000; round++) {
      const leases = [pool.alloc(4096), pool.alloc(100), pool.alloc(65536)];
      for (const lease of leases) lease.free();
    }
    expect(arena.bytes).toBeLessThan(600 * 1024);
    expect(arena.takenCount).toBe(0);
    expect(pool.statistics.fallbackCount).toBe(0);
    pool.close();
  });

  test('an exhausted arena gives way to the heap, which is counted', () => {
    const arena = new SlabArena({ bytesMax: 3 * 4160 });
    const pool = new BufferPool({ arena });
    const leases = Array.from({ length: 5 }, () => pool.alloc(4096));
    expect(arena.takenCount).toBe(3);
    expect(pool.statistics.fallbackCount).toBe(2);
    leases[0]?.free();
    pool.alloc(4096);
    expect(pool.statistics.fallbackCount).toBe(2);
    pool.close();
    expect(arena.takenCount).toBe(0);
  });

  test('what is too long for any block comes from the heap', () => {
    const arena = new SlabArena({ bytesMax: 2 ** 30 });
    const pool = new BufferPool({ arena });
    pool.alloc(2 * 1024 * 1024);
    expect(arena.bytes).toBe(0);
    expect(pool.statistics.fallbackCount).toBe(1);
    pool.close();
  });
});

describe('LeaseError', () => {
  test('has an errno', () => {
    expect(new LeaseError('foreign', 'x').errno).toBe('EFAULT');
    expect(new LeaseError('in-flight', 'x').errno).toBe('EBUSY');
  });
});
