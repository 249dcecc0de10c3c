/**
 * Which steps there are, in which order, and which share the cluster: those of one group run at the same time, and
 * must not mind that; a group comes after the one before it.
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
      'two-nodes',
      'removal',
      'snapshots',
      'provisioning',
      'expand',
      'capacity',
      'access',
      'block',
      'other-volumes',
    ],
    workers: 3,
    budgetSeconds: 240,
  },
  { name: 'figures', files: ['figures'], workers: 1, budgetSeconds: 180 },
  {
    name: 'what goes wrong',
    files: ['restarts', 'controller', 'api-server', 'certificates', 'health'],
    workers: 1,
    budgetSeconds: 240,
  },
  {
    name: 'applications and installations',
    files: ['postgres', 'two-installs'],
    workers: 2,
    budgetSeconds: 150,
  },
  { name: 'loss of a node', files: ['node-loss'], workers: 1, budgetSeconds: 240 },
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
