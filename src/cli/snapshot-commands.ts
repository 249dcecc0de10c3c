/** vdctl snapshot … */
import type { Command } from 'commander';
import { allPages } from '../volumes/all-pages.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { Snapshot } from '../volumes/volume.ts';
import { printable, renderSnapshots } from './output.ts';
import { withService, type Answer, type Io } from './session.ts';

const volumeArgument = ['<volume>', 'name or id of the volume'] as const;
const nameArgument = ['<name>', 'name or id of the snapshot'] as const;

export function addSnapshotCommands(program: Command, io: Io): void {
  const snapshot = program
    .command('snapshot')
    .description('make, list, roll back to and remove snapshots');
  snapshot
    .command('create')
    .argument(...volumeArgument)
    .argument('<name>', 'unique within the volume')
    .option(
      '--timeout <seconds>',
      'remove it again when it is not in the backend by then; 0 waits as long as it takes, -1 does not wait',
      '0',
    )
    .description('take a snapshot and wait until it is in the backend')
    .action(
      async (volume: string, name: string, options: { timeout: string }, command: Command) => {
        const timeoutSeconds = parseSeconds(options.timeout, -1);
        await withService(command, io, async (service) =>
          described(await service.createSnapshot({ volume, name, timeoutSeconds })),
        );
      },
    );
  snapshot
    .command('ls')
    .argument(...volumeArgument)
    .description('list the snapshots of a volume, oldest first')
    .action(async (volume: string, _options: object, command: Command) => {
      await withService(command, io, async (service) => {
        const snapshots = await Array.fromAsync(
          allPages((page) => service.listSnapshots({ volume }, page)),
        );
        // An empty list is only an answer when the volume exists.
        if (snapshots.length === 0) await service.getVolume(volume);
        return { json: snapshots, text: renderSnapshots(snapshots) };
      });
    });
  addChanges(snapshot, io);
}

function addChanges(snapshot: Command, io: Io): void {
  snapshot
    .command('rm')
    .argument(...volumeArgument)
    .argument(...nameArgument)
    .option('--deferred', 'also with clones: its data stays until the last one is gone')
    .description('remove a snapshot')
    .action(
      async (volume: string, name: string, options: { deferred?: true }, command: Command) => {
        await withService(command, io, async (service) => {
          await service.removeSnapshot(
            { volume, snapshot: name },
            options.deferred ? 'deferred' : 'strict',
          );
          return { json: { removed: name }, text: `removed snapshot ${printable(name)}` };
        });
      },
    );
  snapshot
    .command('rollback')
    .argument(...volumeArgument)
    .argument(...nameArgument)
    .description('put the volume back to a snapshot: newer data and newer snapshots are gone')
    .action(async (volume: string, name: string, _options: object, command: Command) => {
      await withService(command, io, async (service) => {
        await service.rollbackSnapshot({ volume, snapshot: name });
        return {
          json: { volume, snapshot: name },
          text: `volume ${printable(volume)} is back at snapshot ${printable(name)}`,
        };
      });
    });
  snapshot
    .command('wait')
    .argument(...volumeArgument)
    .argument(...nameArgument)
    .option('--timeout <seconds>', 'give up after so long; the snapshot stays', '600')
    .description('wait until a snapshot is in the backend')
    .action(
      async (volume: string, name: string, options: { timeout: string }, command: Command) => {
        const timeoutSeconds = parseSeconds(options.timeout, 0);
        await withService(command, io, async (service) =>
          described(await service.waitSnapshot({ volume, snapshot: name }, timeoutSeconds)),
        );
      },
    );
}

function described(snapshot: Snapshot): Answer {
  const state = snapshot.synced ? 'in the backend' : 'not in the backend yet';
  return {
    json: snapshot,
    text: `snapshot ${printable(snapshot.name)}, ${state}, id ${snapshot.id}`,
  };
}

function parseSeconds(text: string, min: number): number {
  const seconds = Number(text);
  if (!/^-?\d{1,9}$/.test(text) || seconds < min) {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      `timeout ${JSON.stringify(text)}: write whole seconds, at least ${min}`,
    );
  }
  return seconds;
}
