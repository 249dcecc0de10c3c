/** The attacher's contract for the kernel strategy. */
import { attacherContract } from '../../src/attacher/attacher-contract.ts';
import { openKernelHarness } from '../support/attach-kernel.ts';
import { loadModule } from '../support/guest-modules.ts';

loadModule('drivers/block/nbd.ko', 'nbds_max=4 max_part=0');

// This kernel does not know NBD_CMD_WRITE_ZEROES.
const traits = { growing: ['ext4', 'xfs'], passesZeroing: false, stallMs: 20_000 } as const;
attacherContract('kernel', openKernelHarness, traits);
