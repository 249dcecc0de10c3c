/** Restarts on nodes with the attach strategy fuse: see support/restart-steps.ts. */
import { restartSteps } from '../support/restart-steps.ts';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';

const scratch = useScratch('restarts-fuse');
for (const node of readState().nodes) if (!node.kernelNbd) restartSteps(scratch, node);
