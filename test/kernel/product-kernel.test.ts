/** The product with kernel devices in a guest, whose memory is small and whose disk is its own. */
import { testsInGuest } from '../support/guest-tests.ts';

await testsInGuest('the product with kernel devices', {
  files: ['test/guest/product-kernel.ts'],
  requirements: ['tool:fio', 'tool:mkfs.ext4', 'tool:e2fsck', 'tool:nbdcopy'],
  memoryMiB: 448,
  diskMiB: 6144,
  limitMs: 600_000,
  variables: ['KERNEL_ROUNDS', 'MEMORY_TIMES', 'ATTACHES', 'SEED'],
});
