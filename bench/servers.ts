/** The NBD servers that are compared, each over files in one directory, all running at once. */
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run, startDaemon, type Daemon } from './processes.ts';

export interface Server {
  readonly name: string;
  /** What it is, for the report. */
  readonly version: string;
  readonly uri: string;
  readonly pid: number;
  stop(): Promise<void>;
}

const root = join(import.meta.dirname, '..');
export const volumedriverBinary = join(root, 'bin', 'volumedriver-csi');
const vdctlBinary = join(root, 'bin', 'vdctl');

export async function startServers(directory: string, sizeBytes: number): Promise<Server[]> {
  const servers: Server[] = [];
  try {
    for (const start of [startVolumedriver, startNbdkit, startQemuNbd]) {
      servers.push(await start(directory, sizeBytes));
    }
    return servers;
  } catch (error) {
    await Promise.all(servers.map((server) => server.stop()));
    throw error;
  }
}

async function startVolumedriver(parent: string, sizeBytes: number): Promise<Server> {
  const directory = join(parent, 'volumedriver');
  await mkdir(directory);
  const socket = join(directory, 'nbd.sock');
  const api = `unix:${join(directory, 'api.sock')}`;
  const daemon = await startDaemon(
    [
      ...[volumedriverBinary, 'volumedriver', '--data-dir', join(directory, 'data')],
      ...['--backend', `file:${join(directory, 'data', 'backend')}`],
      ...['--nbd', `unix:${socket}`, '--api', api, '--grace', '1'],
    ],
    { socket, log: join(parent, 'volumedriver.log') },
  );
  await startDaemonReady(api);
  await run(vdctlBinary, ['--api', api, 'volume', 'create', 'bench', `${sizeBytes}B`]);
  const { stdout } = await run(volumedriverBinary, ['--version']);
  return server('volumedriver', `volumedriver-csi ${stdout.trim()}`, daemon, { socket });
}

/** The API opens just behind the NBD socket. */
async function startDaemonReady(api: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await run(vdctlBinary, ['--api', api, 'volume', 'ls']);
      return;
    } catch (error) {
      if (attempt === 5) throw error;
    }
  }
}

async function startNbdkit(parent: string, sizeBytes: number): Promise<Server> {
  const file = await newFile(join(parent, 'nbdkit.raw'), sizeBytes);
  const socket = join(parent, 'nbdkit.sock');
  const command = ['nbdkit', '--foreground', '--unix', socket, 'file', `file=${file}`];
  const daemon = await startDaemon(command, { socket, log: join(parent, 'nbdkit.log') });
  return server('nbdkit file', await firstLine('nbdkit'), daemon, { socket });
}

async function startQemuNbd(parent: string, sizeBytes: number): Promise<Server> {
  const file = await newFile(join(parent, 'qemu.raw'), sizeBytes);
  const socket = join(parent, 'qemu.sock');
  const options = [
    '--persistent',
    '--shared=4',
    '--aio=threads',
    '--cache=writeback',
    '--discard=unmap',
  ];
  const command = ['qemu-nbd', ...options, '-f', 'raw', '-k', socket, '-x', 'bench', file];
  const daemon = await startDaemon(command, { socket, log: join(parent, 'qemu.log') });
  return server('qemu-nbd', await firstLine('qemu-nbd'), daemon, { socket });
}

function server(name: string, version: string, daemon: Daemon, at: { socket: string }): Server {
  const uri = `nbd+unix:///bench?socket=${at.socket}`;
  return { name, version, uri, pid: daemon.pid, stop: () => daemon.stop() };
}

async function newFile(path: string, sizeBytes: number): Promise<string> {
  await writeFile(path, '');
  await truncate(path, sizeBytes);
  return path;
}

async function firstLine(program: string): Promise<string> {
  const { stdout } = await run(program, ['--version']);
  return stdout.split('\n')[0] ?? '';
}
