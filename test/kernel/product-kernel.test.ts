/** The product with kernel devices, and an attacher that is killed, in a guest with little memory and a disk of its own. */
import { testsInGuest } from '../support/guest-tests.ts';

await testsInGuest('the product with kernel NBD devices', {
  files: ['test/guest/product-kernel.ts', 'test/guest/kernel-crash.ts'],
  requirements: ['tool:nbdkit', 'tool:fio', 'tool:mkfs.ext4', 'tool:e2fsck', 'tool:nbdcopy'],
  memoryMiB: 448,
  diskMiB: 6144,
  limitMs: 500_000,
  variables: ['ATTACHES', 'KERNEL_ROUNDS', 'KILLS', 'MEMORY_TIMES', 'SEED'],
});
