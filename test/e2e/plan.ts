/**
 * Which steps there are, in which order, and which share the cluster: those of one group run at the same time, and
 * must not mind that, the longest first; a group comes after the one before it.
 */
export interface StepGroup {
  readonly name: string;
  readonly files: readonly string[];
  /** How many of its files run at a time. */
  readonly workers: number;
  readonly budgetSeconds: number;
}

export const smokePlan: readonly StepGroup[] = [
  { name: 'smoke', files: ['smoke'], workers: 1, budgetSeconds: 90 },
];

export const fullPlan: readonly StepGroup[] = [
  {
    name: 'what a storage class promises',
    files: [
      'removal',
      'snapshots',
      'provisioning',
      'block',
      'two-nodes',
      'expand',
      'access',
      'other-volumes',
      'capacity',
    ],
    workers: 3,
    budgetSeconds: 180,
  },
  { name: 'figures', files: ['figures'], workers: 1, budgetSeconds: 200 },
  {
    name: 'restarts on nodes',
    files: ['restarts-kernel', 'restarts-fuse'],
    workers: 2,
    budgetSeconds: 120,
  },
  {
    name: 'what goes wrong in the cluster',
    files: ['controller', 'api-server', 'certificates'],
    workers: 1,
    budgetSeconds: 120,
  },
  { name: 'installations', files: ['two-installs'], workers: 1, budgetSeconds: 100 },
  {
    // The loss of a node is mostly waiting; the others are on the first node.
    name: 'the loss of a node; a database; damage',
    files: ['node-loss', 'postgres', 'health'],
    workers: 2,
    budgetSeconds: 240,
  },
  { name: 'at the end', files: ['nothing-left'], workers: 1, budgetSeconds: 60 },
];

/** Only files whose name fits the pattern; groups without any are left out. */
export function restrict(plan: readonly StepGroup[], only: RegExp | undefined): StepGroup[] {
  return plan
    .map((group) => ({
      ...group,
      files: group.files.filter((file) => only === undefined || only.test(file)),
    }))
    .filter(({ files }) => files.length > 0);
}
