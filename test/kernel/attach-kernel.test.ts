/** The kernel strategy's contract, and what only it has, in a guest whose kernel has the NBD client. */
import { testsInGuest } from '../support/guest-tests.ts';

await testsInGuest('attacher with kernel NBD devices', {
  files: [
    'test/guest/attach-kernel.ts',
    'test/guest/kernel-devices.ts',
    'test/guest/kernel-variants.ts',
  ],
  requirements: ['tool:nbdkit', 'tool:mkfs.ext4', 'tool:mkfs.xfs', 'tool:blkdiscard'],
  memoryMiB: 640,
  limitMs: 500_000,
  variables: ['DEVICES'],
});
