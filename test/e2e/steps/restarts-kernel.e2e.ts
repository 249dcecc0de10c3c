/** Restarts on nodes with the attach strategy kernel: see support/restart-steps.ts. */
import { restartSteps } from '../support/restart-steps.ts';
import { useScratch } from '../support/scratch.ts';
import { readState } from '../support/state.ts';
import { stepNeeds } from '../support/step.ts';

const { nodes } = readState();
const node = nodes.find(({ kernelNbd }) => kernelNbd);
if (node === undefined) {
  stepNeeds(['kernel-nbd'], 'restarts under a writer', () => Promise.resolve());
} else {
  restartSteps(useScratch('restarts-kernel'), node);
}
