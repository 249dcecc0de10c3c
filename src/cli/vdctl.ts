/**
 * vdctl, the operator's tool: one command line in, an exit code out. 0: done. 1: it failed, and one line on
 * standard error says what, why and what to do. 2: the command line makes no sense.
 */
import { Command, CommanderError, Option } from 'commander';
import { hasCode } from '../volumes/errors.ts';
import { errorLine } from './errors.ts';
import { renderFacts } from './output.ts';
import { withService, type Io } from './session.ts';
import { formatSize } from './sizes.ts';
import { addNodeCommands } from './node-commands.ts';
import { addSnapshotCommands } from './snapshot-commands.ts';
import { addVolumeCommands } from './volume-commands.ts';

const examples = `
Examples:
  export VDCTL_API=unix:/run/volumedriver/api.sock
  vdctl volume create data 10GiB
  vdctl volume show data                    # with the NBD URI for nbdinfo, nbdcopy, qemu
  vdctl snapshot create data before-upgrade
  vdctl volume clone data@before-upgrade trial
  vdctl snapshot rollback data before-upgrade
  vdctl volume ls -o json
  vdctl node ls                             # in Kubernetes; needs no --api

Sizes are binary (KiB, MiB, GiB, TiB) or decimal (kB, MB, GB, TB). Volumes and snapshots are
given by name or id.`;

/** Runs one command line (without the program's own name) and returns the exit code. */
export async function runVdctl(args: readonly string[], io: Io): Promise<number> {
  const program = createProgram(io);
  try {
    await program.parseAsync([...args], { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return usageExitCode(error, io);
    io.stderr(`${errorLine(error)}\n`);
    return hasCode(error, 'INVALID_ARGUMENT') ? 2 : 1;
  }
}

function createProgram(io: Io): Command {
  const program = new Command('vdctl');
  program
    .description("Manage a volumedriver's volumes, snapshots and clones.")
    .addOption(
      new Option(
        '--api <endpoint>',
        "the volumedriver's API: unix:PATH or tcp:HOST:PORT on loopback (env: VDCTL_API)",
      ),
    )
    .addOption(
      new Option('-o, --output <format>', 'how to print')
        .choices(['table', 'json'])
        .default('table'),
    )
    .configureHelp({ showGlobalOptions: true })
    .addHelpText('after', examples)
    // Commands inherit this: they must be configured before they are added.
    .exitOverride()
    .configureOutput({
      writeOut: io.stdout,
      writeErr: io.stderr,
      outputError: () => undefined,
    });
  addVolumeCommands(program, io);
  addSnapshotCommands(program, io);
  addNodeCommands(program, io);
  program
    .command('info')
    .description('show who answers, its backend and its free space')
    .action(async (_options: object, command: Command) => {
      await withService(command, io, async (service) => {
        const info = await service.info();
        const capacity = await service.capacity();
        const text = renderFacts([
          ['Version', info.version],
          ['Node', info.nodeId],
          ['Backend', `${info.backendId} (${info.shared ? 'any node' : 'this node only'})`],
          ['Ready', info.ready ? 'yes' : 'no, still starting'],
          ['Capacity', formatSize(capacity.totalBytes)],
          ['Available', formatSize(capacity.availableBytes)],
        ]);
        return { json: { ...info, ...capacity }, text };
      });
    });
  return program;
}

/** Help that was asked for is no error; help because a command is missing is. */
function usageExitCode(error: CommanderError, io: Io): number {
  if (error.exitCode === 0) return 0;
  if (error.code !== 'commander.help') {
    const reason = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
    io.stderr(`vdctl: ${reason}; see 'vdctl --help'\n`);
  }
  return 2;
}
