/** vdctl node …: they ask the Kubernetes API server, not a volumedriver, and so work when a node is lost. */
import type { Command } from 'commander';
import { defaultDriverName } from '../config.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { ClusterChoice, ClusterNodes } from './cluster-nodes.ts';
import { renderJson, type OutputFormat } from './output.ts';
import type { Answer, Io } from './session.ts';

interface NodeOptions {
  readonly namespace?: string;
  readonly driverName?: string;
  readonly kubeconfig?: string;
  readonly volumedriverSelector?: string;
  readonly output: OutputFormat;
}

/** A label's value, which a driver's name has to be. */
const driverNamePattern = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/;

interface BackendChoice {
  readonly backend?: string;
}

const backendOption: [string, string] = [
  '--backend <id>',
  'of a node with several, as after a disk was replaced: this one alone',
];

const aboutForget = `
For a node that is lost for good, with its disk. Its volumes exist nowhere else, so deleting or detaching them
waits for the node, until it is forgotten: from then on that counts as done. Nothing is deleted, neither in
Kubernetes nor on the disk.`;

export function addNodeCommands(program: Command, io: Io): void {
  const node = program
    .command('node')
    .description('the nodes of a Kubernetes cluster, and those that are lost')
    .option('--namespace <name>', "the driver's namespace (env: VDCTL_NAMESPACE)")
    .option('--driver-name <name>', `default: ${defaultDriverName} (env: VDCTL_DRIVER_NAME)`)
    .option(
      '--kubeconfig <file>',
      'default: that of KUBECONFIG or ~/.kube/config; in a pod, its own account',
    )
    .option(
      '--volumedriver-selector <labels>',
      'which pods are volumedrivers, unless the chart made them (env: VDCTL_VOLUMEDRIVER_SELECTOR)',
    );
  node
    .command('ls')
    .description('list nodes with their backends, and how they are')
    .action(async (_options: object, command: Command) => {
      await withCluster(command, io, (nodes) => nodes.list());
    });
  node
    .command('forget')
    .argument('<node>', 'the name of its Node object')
    .option(...backendOption)
    .description('give up a lost node and its volumes')
    .addHelpText('after', aboutForget)
    .action(async (nodeId: string, { backend }: BackendChoice, command: Command) => {
      await withCluster(command, io, (nodes) => nodes.forget(nodeId, backend));
    });
  node
    .command('remember')
    .argument('<node>', 'the name of its Node object')
    .option(...backendOption)
    .description('use a node again that was forgotten')
    .action(async (nodeId: string, { backend }: BackendChoice, command: Command) => {
      await withCluster(command, io, (nodes) => nodes.remember(nodeId, backend));
    });
}

async function withCluster(
  command: Command,
  io: Io,
  work: (nodes: ClusterNodes) => Promise<Answer>,
): Promise<void> {
  const options = command.optsWithGlobals<NodeOptions>();
  const choice = readChoice(options, io.env);
  const { ClusterNodes } = await import('./cluster-nodes.ts');
  const nodes = new ClusterNodes(choice, io.env);
  try {
    const answer = await work(nodes);
    io.stdout(`${options.output === 'json' ? renderJson(answer.json) : answer.text}\n`);
  } finally {
    await nodes.close();
  }
}

function readChoice(options: NodeOptions, env: Io['env']): ClusterChoice {
  const driverName = options.driverName ?? given(env['VDCTL_DRIVER_NAME']) ?? defaultDriverName;
  if (!driverNamePattern.test(driverName)) {
    const message = `driver name ${JSON.stringify(driverName)}: at most 63 of a-z, 0-9, '-' and '.'`;
    throw new VolumeError('INVALID_ARGUMENT', message);
  }
  return {
    driverName,
    kubeconfig: options.kubeconfig,
    namespace: options.namespace ?? given(env['VDCTL_NAMESPACE']),
    selector: options.volumedriverSelector ?? given(env['VDCTL_VOLUMEDRIVER_SELECTOR']),
  };
}

function given(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}
