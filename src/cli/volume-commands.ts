/** vdctl volume … */
import { Option, type Command } from 'commander';
import { allPages } from '../volumes/all-pages.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { SnapshotRef, VolumeService } from '../volumes/volume-service.ts';
import { flushTargets, type FlushTarget, type Volume } from '../volumes/volume.ts';
import { printable, renderVolume, renderVolumes } from './output.ts';
import { withService, type Answer, type Io } from './session.ts';
import { formatSize, parseSize } from './sizes.ts';

export function addVolumeCommands(program: Command, io: Io): void {
  const volume = program
    .command('volume')
    .description('make, show, grow, clone and remove volumes');
  volume
    .command('create')
    .argument('<name>', 'any text of 1 to 128 bytes')
    .argument('<size>', 'such as 10GiB or 500MB')
    .addOption(
      new Option('--flush-to <where>', 'where data must be before a flush is answered').choices(
        flushTargets,
      ),
    )
    .description('make an empty volume; repeating it is harmless')
    .action(
      async (name: string, size: string, options: { flushTo?: FlushTarget }, command: Command) => {
        const sizeBytes = parseSize(size);
        await withService(command, io, async (service) => {
          const request = { name, sizeBytes, ...(options.flushTo && { flushTo: options.flushTo }) };
          return created(await service.createVolume(request));
        });
      },
    );
  volume
    .command('rm')
    .argument('<name>', 'name or id')
    .option(
      '--deferred',
      'also with snapshots and clones: their data stays until the last one is gone',
    )
    .description('remove a volume and its data')
    .action(async (name: string, options: { deferred?: true }, command: Command) => {
      await withService(command, io, async (service) => {
        await service.removeVolume(name, options.deferred ? 'deferred' : 'strict');
        return { json: { removed: name }, text: `removed volume ${printable(name)}` };
      });
    });
  volume
    .command('ls')
    .description('list volumes')
    .action(async (_options: object, command: Command) => {
      await withService(command, io, async (service) => {
        const volumes = await Array.fromAsync(allPages((page) => service.listVolumes(page)));
        return { json: volumes, text: renderVolumes(volumes) };
      });
    });
  volume
    .command('show')
    .argument('<name>', 'name or id')
    .description('show all facts about a volume, and the NBD URI where clients find it')
    .action(async (name: string, _options: object, command: Command) => {
      await withService(command, io, (service) => show(service, name));
    });
  addChanges(volume, io);
}

function addChanges(volume: Command, io: Io): void {
  volume
    .command('resize')
    .argument('<name>', 'name or id')
    .argument('<size>', 'the new size, such as 20GiB; volumes never shrink')
    .description('grow a volume, also while it is used')
    .action(async (name: string, size: string, _options: object, command: Command) => {
      const sizeBytes = parseSize(size);
      await withService(command, io, async (service) => {
        const grown = await service.growVolume(name, sizeBytes);
        return {
          json: grown,
          text: `volume ${printable(grown.name)} has ${formatSize(grown.sizeBytes)}`,
        };
      });
    });
  volume
    .command('clone')
    .argument(
      '<volume@snapshot>',
      'the snapshot to start from, or @ID for one whose volume is gone',
    )
    .argument('<name>', 'the new volume')
    .option('--size <size>', "at least the snapshot's size, which is the default")
    .description('make a volume from a snapshot, at once and without copying data')
    .action(async (source: string, name: string, options: { size?: string }, command: Command) => {
      const ref = parseSnapshotRef(source);
      const wantedBytes = options.size === undefined ? undefined : parseSize(options.size);
      await withService(command, io, async (service) => {
        const snapshot = await service.getSnapshot(ref);
        const request = {
          name,
          sizeBytes: wantedBytes ?? snapshot.sizeBytes,
          source: { kind: 'snapshot', snapshotId: snapshot.id },
        } as const;
        return created(await service.createVolume(request));
      });
    });
}

function created(volume: Volume): Answer {
  return {
    json: volume,
    text: `volume ${printable(volume.name)} of ${formatSize(volume.sizeBytes)}, id ${volume.id}`,
  };
}

async function show(service: VolumeService, name: string): Promise<Answer> {
  const volume = await service.getVolume(name);
  try {
    const { uri } = await service.getExport({ kind: 'plain', volume: volume.id });
    return { json: { ...volume, uri }, text: renderVolume(volume, uri) };
  } catch (error) {
    // The volume itself was found: what is known is shown, with the reason for what isn't.
    if (!(error instanceof VolumeError)) throw error;
    const text = renderVolume(volume, `not available (${printable(error.message)})`);
    return { json: { ...volume, uri: null }, text };
  }
}

/** The last @ separates; INVALID_ARGUMENT without one. */
export function parseSnapshotRef(text: string): SnapshotRef {
  const at = text.lastIndexOf('@');
  const volume = text.slice(0, Math.max(at, 0));
  const snapshot = text.slice(at + 1);
  if (at < 0 || snapshot === '') {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      `snapshot ${JSON.stringify(text)}: write VOLUME@SNAPSHOT`,
    );
  }
  return volume === '' ? { snapshot } : { volume, snapshot };
}
