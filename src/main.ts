/** argv, signals and wiring: picks the role that the command line names and runs it until a signal ends it. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import {
  defaultDriverName,
  parseAll,
  parseAttacher,
  parseController,
  parseNode,
  parsePlugin,
  parseVolumedriver,
  type RawOptions,
} from './config.ts';
import { createLogger, type LogLevel } from './base/logger.ts';
import { describeFailure } from './roles/failure.ts';
import { withstandMemoryPressure } from './roles/memory-pressure.ts';
import { onSupervisorGone } from './roles/stopping.ts';

const packageFile = new URL('../package.json', import.meta.url);
const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };

interface Launch<Config> {
  readonly parse: (raw: RawOptions) => Config;
  /** A role's code is read only when it runs, and where it replaces its process at the start, only once. */
  readonly load: () => Promise<
    (config: Config, version: string, stop: AbortSignal) => Promise<void>
  >;
  /** Block I/O of this node depends on the role. */
  readonly carriesIo?: boolean;
}

function action<Config extends { logLevel: LogLevel }>({
  parse,
  load,
  carriesIo = false,
}: Launch<Config>) {
  return async (raw: RawOptions, command: Command): Promise<void> => {
    try {
      const config = parse(raw);
      const fields = { role: command.name(), version };
      if (carriesIo) withstandMemoryPressure(createLogger(config.logLevel, fields));
      const stop = new AbortController();
      const end = (): void => {
        stop.abort();
      };
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, end);
      onSupervisorGone(end);
      const run = await load();
      await run(config, version, stop.signal);
      process.exit(0);
    } catch (error) {
      process.stderr.write(`volumedriver-csi: ${describeFailure(error)}\n`);
      process.exit(1);
    }
  };
}

const program = new Command('volumedriver-csi')
  .description(
    'Log-structured block volumes with O(1) snapshots and clones, served over NBD and CSI.',
  )
  .version(version)
  .showHelpAfterError();

/** A role's command; every option takes a value, and config.ts checks them all together. */
function role(name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .option('--log-level <LEVEL>', 'error, warn, info or debug (default: info)');
}

const loadPlugin = async () => (await import('./roles/plugin.ts')).runPlugin;

const driverName: [string, string] = [
  '--driver-name <NAME>',
  `the CSI driver's name (default: ${defaultDriverName})`,
];

const monitoring: [string, string] = [
  '--metrics <ENDPOINT>',
  'where /metrics, /healthz and /readyz are: tcp:HOST:PORT, any address (default: nowhere)',
];

role('volumedriver', 'serve the volumes of one backend on this node')
  .option('--data-dir <DIR>', 'local log and cache; one process at a time')
  .option('--backend <BACKEND>', 'where volumes live: file:DIR')
  .option('--nbd <ADDRESS>', 'where NBD is served: unix:PATH or tcp:HOST:PORT on loopback')
  .option('--api <ENDPOINT>', 'where the API is served: unix:PATH or tcp:HOST:PORT on loopback')
  .option('--node-id <ID>', 'the name of this node (default: localhost)')
  .option('--map-memory <SIZE>', 'memory for the maps of all volumes (default: 256MiB)')
  .option(
    '--read-cache <SIZE>',
    'memory for reads from a backend that is not local (default: 128MiB)',
  )
  .option(
    '--reserve <SIZE>',
    'disk space kept so that a full disk can be cleaned up (default: 64MiB)',
  )
  .option('--grace <SECONDS>', 'how long clients are served after SIGTERM (default: 30)')
  .option(...driverName)
  .option(
    '--remote-api <ENDPOINT>',
    'where the API is served to controllers on other machines, with mutual TLS: tcp:HOST:PORT (default: nowhere)',
  )
  .option('--tls-ca <FILE>', 'the certificate authorities that are trusted, in PEM')
  .option('--tls-cert <FILE>', 'the certificate of this volumedriver, in PEM; with --tls-key')
  .option('--tls-key <FILE>', 'its key, in PEM')
  .option(
    '--tls-issuer <ENDPOINT>',
    'instead of --tls-cert: which controller issues and renews the certificate: HOST:PORT; with --tls-token',
  )
  .option('--tls-token <FILE>', "the service account token of this volumedriver's pod")
  .option(...monitoring)
  .action(
    action({
      parse: parseVolumedriver,
      load: async () => (await import('./roles/volumedriver.ts')).runVolumedriver,
      carriesIo: true,
    }),
  );

role('attacher', "own this node's block devices")
  .option('--listen <ENDPOINT>', 'where its API is served: unix:PATH')
  .option('--state-dir <DIR>', 'records of devices; survives restarts')
  .option('--volumedriver <ENDPOINT>', 'the API of the volumedriver on this node')
  .option(
    '--reconnect-delay <SECONDS>',
    'how long I/O waits for a lost volumedriver (default: 3600)',
  )
  .option(
    '--strategy <NAME>',
    "how devices are made: kernel (the kernel's NBD client), fuse (through FUSE and loop), or auto: " +
      'kernel where the node has it (default: auto)',
  )
  .option(
    '--connections <N>',
    'NBD connections of a device, 1 to 16, with the strategy kernel; with more than one, the kernel takes a ' +
      'volumedriver that stalls for 30 s for lost and sends its requests again (default: 1)',
  )
  .option(...monitoring)
  .option(...driverName)
  .action(
    action({
      parse: parseAttacher,
      load: async () => (await import('./roles/attacher.ts')).runAttacher,
      carriesIo: true,
    }),
  );

const attachLimit: [string, string] = [
  '--attach-limit <N>',
  'the most volumes that a node has at one time (default: 128)',
];
const overcommit: [string, string] = [
  '--overcommit <N>',
  'a new volume has at most N times the space that is free (default: 10)',
];

role('node', 'serve the CSI Node service')
  .option('--csi <ENDPOINT>', 'the CSI socket: unix:PATH')
  .option('--attacher <ENDPOINT>', 'the API of the attacher on this node')
  .option('--volumedriver <ENDPOINT>', 'the API of the volumedriver on this node')
  .option('--node-id <ID>', 'the name of this node')
  .option('--state-dir <DIR>', 'records of staged volumes; survives reboots')
  .option(...attachLimit)
  .option(...driverName)
  .action(action({ parse: parseNode, load: loadPlugin }));

role('controller', 'serve the CSI Controller service')
  .option('--csi <ENDPOINT>', 'the CSI socket: unix:PATH')
  .option('--volumedriver <ENDPOINT>', 'the API of the only volumedriver, without Kubernetes')
  .option(
    '--known-nodes <IDS>',
    'nodes that volumes may be published to, with commas between, without Kubernetes',
  )
  .option('--namespace <NAME>', 'find volumedrivers and nodes through Kubernetes: their namespace')
  .option('--volumedriver-selector <LABELS>', "the label selector of the volumedrivers' pods")
  .option('--volumedriver-port <PORT>', 'where each of them serves its remote API')
  .option(
    '--tls-ca-dir <DIR>',
    'the certificate authority: tls.crt, tls.key, and perhaps ca-bundle.crt; read again when they change',
  )
  .option(
    '--issuer <ENDPOINT>',
    'where volumedrivers get their certificates: tcp:HOST:PORT (default: nowhere)',
  )
  .option('--issuer-service-account <NAME>', "the service account of the volumedrivers' pods")
  .option(...overcommit)
  .option(...attachLimit)
  .option(...monitoring)
  .option(...driverName)
  .action(action({ parse: parseController, load: loadPlugin }));

role('plugin', 'serve node and controller on one CSI socket, for one machine')
  .option('--csi <ENDPOINT>', 'the CSI socket: unix:PATH')
  .option('--attacher <ENDPOINT>', 'the API of the attacher on this node')
  .option('--volumedriver <ENDPOINT>', 'the API of the volumedriver on this node')
  .option('--node-id <ID>', 'the name of this node')
  .option('--known-nodes <IDS>', 'nodes that volumes may be published to, with commas between')
  .option('--state-dir <DIR>', 'records of staged volumes; survives reboots')
  .option(...overcommit)
  .option(...attachLimit)
  .option(...driverName)
  .action(action({ parse: parsePlugin, load: loadPlugin }));

role('all', 'supervise every role on one machine, each as a process of its own')
  .option('--data-dir <DIR>', 'everything local: logs, records and sockets (run/)')
  .option('--backend <BACKEND>', 'where volumes live: file:DIR')
  .option('--csi <ENDPOINT>', 'the CSI socket: unix:PATH')
  .option('--node-id <ID>', 'the name of this node')
  .option('--nbd <ADDRESS>', 'where NBD is served (default: unix:DIR/run/nbd.sock)')
  .option('--api <ENDPOINT>', 'where the API is served (default: unix:DIR/run/api.sock)')
  .option('--map-memory <SIZE>', 'see volumedriver')
  .option('--read-cache <SIZE>', 'see volumedriver')
  .option('--reserve <SIZE>', 'see volumedriver')
  .option('--grace <SECONDS>', 'see volumedriver')
  .option('--reconnect-delay <SECONDS>', 'see attacher')
  .option('--strategy <NAME>', 'see attacher')
  .option('--connections <N>', 'see attacher')
  .option('--metrics <ENDPOINT>', 'see attacher')
  .option(...overcommit)
  .option(...attachLimit)
  .option(...driverName)
  .action(action({ parse: parseAll, load: async () => (await import('./roles/all.ts')).runAll }));

await program.parseAsync();
