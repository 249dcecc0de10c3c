/**
 * The kernel strategy's contract, its own tests and the product with it, in guests whose kernel has the NBD client. Two
 * guests side by side: each has one processor.
 */
import { testsInGuest } from '../support/guest-tests.ts';

const limitMs = 500_000;

await Promise.all([
  testsInGuest('attacher with kernel NBD devices', {
    files: ['test/guest/attach-kernel.ts', 'test/guest/kernel-devices.ts'],
    requirements: ['tool:nbdkit', 'tool:mkfs.ext4', 'tool:mkfs.xfs', 'tool:blkdiscard'],
    memoryMiB: 640,
    limitMs,
    variables: ['DEVICES'],
  }),
  // A small memory and a disk of its own.
  testsInGuest('the product with kernel NBD devices', {
    files: [
      'test/guest/product-kernel.ts',
      'test/guest/kernel-variants.ts',
      'test/guest/kernel-crash.ts',
    ],
    requirements: ['tool:nbdkit', 'tool:fio', 'tool:mkfs.ext4', 'tool:e2fsck', 'tool:nbdcopy'],
    memoryMiB: 448,
    diskMiB: 6144,
    limitMs,
    variables: ['ATTACHES', 'KERNEL_ROUNDS', 'KILLS', 'MEMORY_TIMES', 'SEED'],
  }),
]);
