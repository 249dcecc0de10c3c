/** The attacher's contract for the fuse strategy, with a real qemu-storage-daemon and nbdkit as server. */
import { attacherContract } from '../../src/attacher/attacher-contract.ts';
import { openFuseHarness } from '../support/attach-fuse.ts';
import { describeRequires } from '../support/requires.ts';

describeRequires(
  [
    ...(['root', 'linux', 'fuse', 'loop', 'tool:nbdkit', 'tool:qemu-storage-daemon'] as const),
    ...(['tool:mkfs.ext4', 'tool:mkfs.xfs', 'tool:blkdiscard'] as const),
  ],
  'attacher with FUSE devices',
  () => {
    attacherContract('fuse', openFuseHarness);
  },
);
