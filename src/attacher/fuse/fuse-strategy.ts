/**
 * Devices without the kernel's NBD client: qemu-storage-daemon shows the export as a file through FUSE, and a loop
 * device makes a block device of the file. Works on any kernel with fuse and loop.
 *
 * The loop device never uses direct I/O. With it, several FUSE writes are under way at a time, and the daemon (seen
 * with qemu 7.2.22) then stores one write's data in the place of another, without any error: mkfs.ext4 alone is
 * enough. Without it, the kernel holds the file's lock during each write, so that there is only one. The pages
 * that the kernel caches of the FUSE file are always clean (it writes through): they cost memory only while
 * nobody else needs it.
 */
import { access, constants, mkdir, realpath, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import type { RunCommand } from '../../volumes/command.ts';
import { VolumeError } from '../../volumes/errors.ts';
import { confirmedProbe, isGone, requireOffered, troubleOf } from '../export-probe.ts';
import { listMounts } from '../mounts.ts';
import { probeExport, type ExportProbe } from '../nbd-probe.ts';
import { isAlive } from '../../base/processes.ts';
import type {
  Details,
  DeviceStrategy,
  Inspection,
  SaveDetails,
  Target,
  TargetExport,
} from '../strategy.ts';
import { unreadable } from '../records.ts';
import { waitUntil } from '../waiting.ts';
import {
  defaultFuseTimeouts,
  noDetails,
  readDetails,
  type FuseDetails,
  type FuseTimeouts,
} from './fuse-details.ts';
import { detachFuse } from './fuse-detach.ts';
import {
  awaitMounted,
  findDaemons,
  foldersWithDaemons,
  fuseFolder,
  lastWords,
  startDaemon,
  stopDaemon,
  type FuseFolder,
} from './fuse-daemon.ts';
import { growDaemon } from './grow.ts';
import { LoopDevices, type Backing } from './loop-devices.ts';
import { QmpClient } from './qmp-client.ts';

export interface FuseStrategyOptions {
  readonly stateDirectory: string;
  readonly runCommand: RunCommand;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly timeouts?: Partial<FuseTimeouts>;
  /** How long I/O waits for a lost volumedriver before it fails. 3600 unless given. */
  readonly reconnectDelaySeconds?: number;
  /** Name or path of qemu-storage-daemon. */
  readonly daemonProgram?: string;
}

type ExportTarget = Target & { export: TargetExport };

const works = { state: 'attached', reason: '' } as const;

/** The daemon reconnects by itself; only an export that is refused meanwhile is for us to find. */
const probeEveryMs = 10_000;

export class FuseStrategy implements DeviceStrategy {
  readonly name = 'fuse';
  readonly #options: FuseStrategyOptions;
  readonly #timeouts: FuseTimeouts;
  readonly #program: string;
  readonly #reconnectDelaySeconds: number;
  readonly #loops: LoopDevices;
  /** When each device was last looked at closely. */
  readonly #lookedAtMs = new Map<string, number>();
  #parent: string;

  constructor(options: FuseStrategyOptions) {
    this.#options = options;
    this.#timeouts = { ...defaultFuseTimeouts, ...options.timeouts };
    this.#program = options.daemonProgram ?? 'qemu-storage-daemon';
    this.#reconnectDelaySeconds = options.reconnectDelaySeconds ?? 3600;
    this.#parent = join(options.stateDirectory, 'fuse');
    const { runCommand, clock } = options;
    this.#loops = new LoopDevices({
      runCommand,
      clock,
      commandTimeoutMs: this.#timeouts.commandMs,
    });
  }

  async start(): Promise<void> {
    await this.#requireMachine();
    await mkdir(this.#parent, { recursive: true, mode: 0o700 });
    // The kernel shows backing files and mounts by their real paths.
    this.#parent = await realpath(this.#parent);
    const longest = Buffer.byteLength(fuseFolder(this.#parent, '0123456789abcdef').qmpSocketPath);
    if (longest > 107) {
      const why = `its sockets would have paths of ${longest} bytes, and unix(7) allows 107`;
      throw new VolumeError('INVALID_ARGUMENT', `use the state directory ${this.#parent}: ${why}`);
    }
  }

  /** Nothing is held: the daemons are found by what the kernel shows. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  /** A daemon that loses its server tells nobody. */
  onTrouble(): void {
    return;
  }

  async #requireMachine(): Promise<void> {
    for (const device of ['/dev/fuse', '/dev/loop-control']) {
      try {
        await access(device, constants.R_OK | constants.W_OK);
      } catch (cause) {
        throw new VolumeError('NOT_CAPABLE', `attach by FUSE and loop: ${device} is not usable`, {
          cause,
        });
      }
    }
    const { runCommand } = this.#options;
    await runCommand(this.#program, ['--version'], { timeoutMs: this.#timeouts.commandMs });
  }

  async attach(target: ExportTarget, save: SaveDetails): Promise<Inspection> {
    const { uri, readOnly } = target.export;
    const offered = requireOffered(await this.#probe(uri), readOnly);
    const folder = this.#folder(target);
    await mkdir(folder.path, { recursive: true, mode: 0o700 });
    await writeFile(folder.mountpoint, '', { mode: 0o600 });
    const daemon = await startDaemon(folder, {
      program: this.#program,
      uri,
      readOnly,
      reconnectDelaySeconds: this.#reconnectDelaySeconds,
    });
    await save({ ...noDetails, daemon });
    const wait = { clock: this.#options.clock, timeoutMs: this.#timeouts.startMs };
    const deviceNumber = await awaitMounted(folder, daemon, wait);
    const device = await this.#loops.create(folder.mountpoint, { readOnly });
    const details: FuseDetails = { ...noDetails, daemon, deviceNumber, device };
    await save(details);
    const sizeBytes = await this.#loops.sizeBytes(device);
    // A server may be larger than whole sectors; the device shows those only.
    if (sizeBytes !== Math.floor(offered.sizeBytes / 512) * 512) {
      const why = `${device} shows ${sizeBytes} bytes, the export has ${offered.sizeBytes}`;
      throw new VolumeError('UNAVAILABLE', `attach: ${why}`);
    }
    return { path: device, sizeBytes, state: 'attached', reason: '' };
  }

  async detach(target: Target, saved: Details | null): Promise<void> {
    const details = readDetails(saved) ?? noDetails;
    const folder = this.#folder(target);
    const uri = target.export?.uri;
    await detachFuse(
      { folder, details, program: this.#program, readOnly: target.export?.readOnly ?? false },
      {
        loops: this.#loops,
        timeouts: this.#timeouts,
        runCommand: this.#options.runCommand,
        clock: this.#options.clock,
        logger: this.#options.logger.child({
          volumeId: target.export?.volumeId ?? '',
          key: target.key,
        }),
        refused: async () => uri !== undefined && isGone(await this.#confirmedProbe(uri)),
      },
    );
    await rm(folder.path, { recursive: true, force: true });
    this.#lookedAtMs.delete(target.key);
  }

  async resize(
    target: ExportTarget,
    saved: Details,
    { sizeBytes }: { sizeBytes: number },
  ): Promise<Inspection> {
    const before = await this.inspect(target, saved);
    if (before.state !== 'attached') {
      throw new VolumeError(
        'UNAVAILABLE',
        `grow the device: it is ${before.state}: ${before.reason}`,
      );
    }
    if (before.sizeBytes >= sizeBytes) return before;
    const { uri, readOnly } = target.export;
    const offered = requireOffered(await this.#probe(uri), readOnly);
    if (offered.sizeBytes < sizeBytes) {
      const why = `the export has ${offered.sizeBytes} bytes, not ${sizeBytes}`;
      throw new VolumeError('OUT_OF_RANGE', `grow the device: ${why}`);
    }
    await this.#growDaemon(target, sizeBytes);
    await this.#growLoop(this.#folder(target), before.path, sizeBytes);
    return await this.inspect(target, saved);
  }

  async isSuspect(target: ExportTarget, saved: Details): Promise<boolean> {
    const daemon = readDetails(saved)?.daemon ?? null;
    if (daemon === null || !(await isAlive(daemon))) return true;
    const lookedAtMs = this.#lookedAtMs.get(target.key) ?? -Infinity;
    return this.#options.clock.monotonicMs() - lookedAtMs >= probeEveryMs;
  }

  /** The daemon tries to reconnect after 1, 2, 4, 8 and then every 16 s, and nothing can make it try earlier. */
  async heal(target: ExportTarget, saved: Details): Promise<Inspection> {
    this.#lookedAtMs.set(target.key, this.#options.clock.monotonicMs());
    return await this.inspect(target, saved);
  }

  /** Without its daemon all I/O of the file, and so of the loop device, fails; the loop device keeps its number. */
  async fail(
    target: ExportTarget,
    saved: Details,
    { reason, save }: { reason: string; save: SaveDetails },
  ): Promise<void> {
    const known = readDetails(saved);
    if (known === null) throw new VolumeError('CORRUPT', `give the device up: ${unreadable}`);
    const details = { ...known, failed: reason };
    await save(details);
    const folder = this.#folder(target);
    for (const daemon of await findDaemons(folder, this.#program, details.daemon)) {
      const { clock } = this.#options;
      if (await stopDaemon(daemon, { clock, abort: true, politeMs: 0 })) continue;
      const why = `the FUSE daemon with pid ${daemon.pid} does not die`;
      throw new VolumeError('UNAVAILABLE', `give the device up: ${why}`);
    }
  }

  async inspect(target: ExportTarget, saved: Details): Promise<Inspection> {
    const details = readDetails(saved);
    const device = details?.device ?? null;
    if (details === null) return { path: '', sizeBytes: 0, state: 'waiting', reason: unreadable };
    if (device === null) return broken('', 0, 'the record names no device');
    const folder = this.#folder(target);
    if (!(await this.#loops.isOurs(device, backingOf(folder, details)))) {
      return broken(device, 0, `${device} does not belong to this volume any more`);
    }
    const sizeBytes = await this.#loops.sizeBytes(device);
    const trouble = details.failed ?? (await daemonTrouble(folder, details));
    if (trouble !== null) return broken(device, sizeBytes, trouble);
    const probe = await this.#confirmedProbe(target.export.uri);
    const { state, reason } = troubleOf(probe) ?? works;
    return { path: device, sizeBytes, state, reason };
  }

  async list(): Promise<string[]> {
    const prefix = `${this.#parent}/`;
    const paths = [
      ...(await foldersWithDaemons(this.#parent, this.#program)).map((key) => `${prefix}${key}`),
      ...(await this.#loops.backingFilesUnder(this.#parent)),
      ...(await listMounts()).map((mount) => mount.mountpoint),
    ];
    const keys = paths
      .filter((path) => path.startsWith(prefix))
      .map((path) => path.slice(prefix.length).split('/')[0] ?? '');
    return [...new Set(keys.filter((key) => key !== ''))].sort();
  }

  async forget(target: Target): Promise<void> {
    const folder = this.#folder(target);
    if ((await this.list()).includes(target.key)) {
      throw new VolumeError('INTERNAL', `forget ${folder.path}: something of it still runs`);
    }
    await rm(folder.path, { recursive: true, force: true });
  }

  async #growDaemon(target: ExportTarget, sizeBytes: number): Promise<void> {
    const { clock, logger } = this.#options;
    const { uri, readOnly } = target.export;
    const path = this.#folder(target).qmpSocketPath;
    const qmp = await QmpClient.open(path, { clock, timeoutMs: this.#timeouts.qmpMs });
    try {
      const reconnectDelaySeconds = this.#reconnectDelaySeconds;
      await growDaemon(qmp, { uri, readOnly, reconnectDelaySeconds, sizeBytes }, logger);
    } finally {
      qmp.close();
    }
  }

  /** The kernel may take the file's size from an attribute cache of one second: stat refreshes it, then again. */
  async #growLoop(folder: FuseFolder, device: string, sizeBytes: number): Promise<void> {
    const { clock, runCommand } = this.#options;
    const timeoutMs = this.#timeouts.commandMs;
    const grown = await waitUntil(clock, { timeoutMs, everyMs: 300 }, async () => {
      await runCommand('stat', ['--format=%s', folder.mountpoint], { timeoutMs });
      await this.#loops.takeSize(device);
      const { stdout } = await runCommand('blockdev', ['--getsize64', device], { timeoutMs });
      return Number(stdout) >= sizeBytes;
    });
    if (!grown)
      throw new VolumeError('UNAVAILABLE', `grow the device: ${device} does not take the new size`);
  }

  #folder(target: Target): FuseFolder {
    return fuseFolder(this.#parent, target.key);
  }

  #probe(uri: string): Promise<ExportProbe> {
    return probeExport(uri, { clock: this.#options.clock, timeoutMs: this.#timeouts.probeMs });
  }

  #confirmedProbe(uri: string): Promise<ExportProbe> {
    return confirmedProbe(uri, { clock: this.#options.clock, timeoutMs: this.#timeouts.probeMs });
  }
}

/** Null while the daemon lives. */
async function daemonTrouble(folder: FuseFolder, { daemon }: FuseDetails): Promise<string | null> {
  if (daemon !== null && (await isAlive(daemon))) return null;
  const said = await lastWords(folder);
  const pid = daemon === null ? '' : ` (pid ${daemon.pid})`;
  return `its FUSE daemon${pid} died${said ? `: ${said}` : ''}`;
}

function backingOf(folder: FuseFolder, details: FuseDetails): Backing {
  return { file: folder.mountpoint, deviceNumber: details.deviceNumber };
}

function broken(path: string, sizeBytes: number, reason: string): Inspection {
  return { path, sizeBytes, state: 'broken', reason };
}
