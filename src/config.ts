/**
 * What the command line says, checked: pure, and all problems at once. Each role has a plain configuration object;
 * nothing executable hides in it.
 */
import {
  parseEndpoint,
  parseTcpEndpoint,
  type Endpoint,
  type TcpEndpoint,
} from './api/endpoint.ts';
import { connectionsMax, strategyWishes, type StrategyWish } from './attacher/choose-strategy.ts';
import { parseSize } from './cli/sizes.ts';
import { describeError, logLevels, type LogLevel } from './base/logger.ts';
import { parseNbdAddress, type NbdAddress } from './nbd/uri.ts';
import { VolumeError } from './volumes/errors.ts';

export const defaultDriverName = 'csi.volumedriver.io';

export interface VolumedriverConfig {
  dataDirectory: string;
  /** The directory of a `file:` backend. */
  backendDirectory: string;
  nbd: NbdAddress;
  api: Endpoint;
  driverName: string;
  nodeId: string;
  logLevel: LogLevel;
  mapMemoryBytes: number;
  readCacheBytes: number;
  reserveBytes: number;
  /** How long attached clients are served after SIGTERM, in milliseconds. */
  graceMs: number;
  /** The API for controllers on other machines; null for none. */
  remote: RemoteApi | null;
  /** Where Prometheus and probes find it; null for nowhere. */
  metrics: MetricsAddress | null;
}

/** With mutual TLS; all files are read again when they change. */
export interface RemoteApi {
  listen: TcpEndpoint;
  /** The CAs that are trusted. */
  trustFile: string;
  certificate: CertificateOrigin;
}

export type CertificateOrigin =
  | { kind: 'files'; certificateFile: string; keyFile: string }
  | { kind: 'issuer'; issuer: TcpEndpoint; tokenFile: string };

export interface AttacherConfig {
  listen: Endpoint;
  stateDirectory: string;
  driverName: string;
  logLevel: LogLevel;
  reconnectDelaySeconds: number;
  strategy: StrategyWish;
  /** NBD connections of each device, with the strategy `kernel`. */
  connections: number;
  /** Where Prometheus finds the metrics; null for nowhere. */
  metrics: MetricsAddress | null;
}

/** Any address: whoever reaches it reads numbers, and can change nothing. */
export interface MetricsAddress {
  host: string;
  port: number;
}

export interface PluginConfig {
  csi: Endpoint;
  driverName: string;
  logLevel: LogLevel;
  /** Present when the node service is served. */
  node?: NodeConfig;
  /** Present when the controller service is served. */
  controller?: ControllerConfig;
}

export interface NodeConfig {
  volumedriver: Endpoint;
  attacher: Endpoint;
  nodeId: string;
  stateDirectory: string;
  /** The most volumes that the node takes. */
  attachLimit: number;
}

export interface ControllerConfig {
  /** A new volume has at most so many times what is free where it goes. */
  overcommit: number;
  /** The most volumes that may be published to one node. */
  attachLimit: number;
  metrics: MetricsAddress | null;
  /** Where volumedrivers and nodes are found. */
  cluster: OneMachine | KubernetesCluster;
}

export interface OneMachine {
  kind: 'machine';
  volumedriver: Endpoint;
  knownNodes: string[];
}

export interface KubernetesCluster {
  kind: 'kubernetes';
  namespace: string;
  /** Which pods of the namespace are volumedrivers, as a label selector. */
  volumedriverSelector: string;
  /** Where each of them serves its API to controllers. */
  volumedriverPort: number;
  /** Holds tls.crt and tls.key of the certificate authority, and perhaps ca-bundle.crt. */
  caDirectory: string;
  /** Where volumedrivers get their certificates; null for nowhere. */
  issuer: { address: MetricsAddress; serviceAccount: string } | null;
}

export interface AllConfig {
  dataDirectory: string;
  backend: string;
  csi: string;
  nodeId: string;
  nbd: string;
  api: string;
  attacher: string;
  /** How long the volumedriver serves attached clients after SIGTERM, in milliseconds. */
  graceMs: number;
  /** Passed on to every role that knows them. */
  passedOn: Record<string, string>;
  logLevel: LogLevel;
}

/** Options as commander gives them: every value is the text that was typed, or absent. */
export type RawOptions = Readonly<Record<string, string | undefined>>;

/** Collects problems, so that one run tells all of them. */
class Reader {
  readonly problems: string[] = [];
  readonly #raw: RawOptions;

  constructor(raw: RawOptions) {
    this.#raw = raw;
  }

  has(option: string): boolean {
    return this.#raw[option] !== undefined;
  }

  refuse(option: string, why: string): void {
    const problem = `${flagOf(option)}: ${why}`;
    // Two roles in one process may read the same option.
    if (!this.problems.includes(problem)) this.problems.push(problem);
  }

  text(option: string, fallback?: string): string {
    const value = this.#raw[option] ?? fallback;
    if (value !== undefined && value !== '') return value;
    this.refuse(option, 'it is required');
    return '';
  }

  parsed<Value>(
    option: string,
    parse: (text: string) => Value,
    fallback?: string,
  ): Value | undefined {
    const text = this.text(option, fallback);
    if (text === '') return undefined;
    try {
      return parse(text);
    } catch (error) {
      this.refuse(option, describeError(error));
      return undefined;
    }
  }

  matching(option: string, pattern: RegExp, rule: string, fallback?: string): string {
    const text = this.text(option, fallback);
    if (text !== '' && !pattern.test(text)) this.refuse(option, rule);
    return text;
  }

  /** The configuration, or one error with every problem. */
  finish<Config>(config: Config | undefined): Config {
    if (this.problems.length === 0 && config !== undefined) return config;
    throw new VolumeError('INVALID_ARGUMENT', this.problems.join('\n'));
  }
}

function flagOf(option: string): string {
  return `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

const absolutePath = /^\//;
const absolutePathRule = 'it must be an absolute path';
/** Seconds. */
const graceDefault = '30';
const nodeIdPattern = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;
const nodeIdRule = 'it must be 1 to 253 letters, digits, dots, dashes or underscores';

export function parseVolumedriver(raw: RawOptions): VolumedriverConfig {
  const reader = new Reader(raw);
  const config = {
    dataDirectory: reader.matching('dataDir', absolutePath, absolutePathRule),
    backendDirectory: reader.parsed('backend', parseBackend),
    nbd: reader.parsed('nbd', parseNbdAddress),
    api: reader.parsed('api', parseEndpoint),
    nodeId: reader.matching('nodeId', nodeIdPattern, nodeIdRule, 'localhost'),
    logLevel: readLogLevel(reader),
    mapMemoryBytes: reader.parsed('mapMemory', parseSize, '256MiB'),
    readCacheBytes: reader.parsed('readCache', parseSize, '128MiB'),
    reserveBytes: reader.parsed('reserve', parseSize, '64MiB'),
    graceMs: reader.parsed('grace', parseSeconds, graceDefault),
    driverName: reader.text('driverName', defaultDriverName),
    remote: readRemoteApi(reader),
    metrics: readMetrics(reader),
  };
  return reader.finish(complete(config));
}

function readRemoteApi(reader: Reader): RemoteApi | null | undefined {
  const needRemote = ['tlsCa', 'tlsCert', 'tlsKey', 'tlsIssuer', 'tlsToken'];
  if (!reader.has('remoteApi')) {
    for (const option of needRemote) {
      if (reader.has(option)) reader.refuse(option, 'it is for --remote-api, which is not given');
    }
    return null;
  }
  return complete({
    listen: reader.parsed('remoteApi', parseTcpEndpoint),
    trustFile: reader.matching('tlsCa', absolutePath, absolutePathRule),
    certificate: readCertificateOrigin(reader),
  });
}

function readCertificateOrigin(reader: Reader): CertificateOrigin | undefined {
  const path = (option: string): string => reader.matching(option, absolutePath, absolutePathRule);
  if (reader.has('tlsIssuer')) {
    for (const option of ['tlsCert', 'tlsKey']) {
      if (reader.has(option)) reader.refuse(option, 'with --tls-issuer, the issuer gives them');
    }
    const issuer = reader.parsed('tlsIssuer', parseTcpEndpoint);
    return complete({ kind: 'issuer' as const, issuer, tokenFile: path('tlsToken') });
  }
  if (!reader.has('tlsCert')) {
    reader.refuse(
      'remoteApi',
      'it needs --tls-issuer and --tls-token, or --tls-cert and --tls-key',
    );
    return undefined;
  }
  return { kind: 'files', certificateFile: path('tlsCert'), keyFile: path('tlsKey') };
}

function readMetrics(reader: Reader): MetricsAddress | null | undefined {
  return reader.has('metrics') ? reader.parsed('metrics', parseMetrics) : null;
}

export function parseAttacher(raw: RawOptions): AttacherConfig {
  const reader = new Reader(raw);
  const delay = reader.parsed('reconnectDelay', parseSeconds, '3600');
  const config = {
    listen: reader.parsed('listen', parseEndpoint),
    stateDirectory: reader.matching('stateDir', absolutePath, absolutePathRule),
    driverName: reader.text('driverName', defaultDriverName),
    logLevel: readLogLevel(reader),
    reconnectDelaySeconds: delay === undefined ? undefined : Math.ceil(delay / 1000),
    strategy: reader.parsed('strategy', parseStrategy, 'auto'),
    connections: reader.parsed('connections', parseConnections, '1'),
    metrics: readMetrics(reader),
  };
  return reader.finish(complete(config));
}

export function parseNode(raw: RawOptions): PluginConfig {
  const reader = new Reader(raw);
  const config = { ...readPlugin(reader), node: readNode(reader) };
  return reader.finish(complete(config));
}

export function parseController(raw: RawOptions): PluginConfig {
  const reader = new Reader(raw);
  const cluster = reader.has('namespace') ? readKubernetes(reader) : readMachine(reader);
  const config = { ...readPlugin(reader), controller: readController(reader, cluster) };
  return reader.finish(complete(config));
}

/** Node and controller on one socket, for one machine. */
export function parsePlugin(raw: RawOptions): PluginConfig {
  const reader = new Reader(raw);
  const config = {
    ...readPlugin(reader),
    node: readNode(reader),
    controller: readController(reader, readMachine(reader)),
  };
  return reader.finish(complete(config));
}

export function parseAll(raw: RawOptions): AllConfig {
  const reader = new Reader(raw);
  const dataDirectory = reader.matching('dataDir', absolutePath, absolutePathRule);
  const run = `${dataDirectory}/run`;
  const config = {
    dataDirectory,
    backend: reader.text('backend'),
    csi: reader.text('csi'),
    nodeId: reader.matching('nodeId', nodeIdPattern, nodeIdRule),
    nbd: reader.text('nbd', `unix:${run}/nbd.sock`),
    api: reader.text('api', `unix:${run}/api.sock`),
    attacher: `unix:${run}/attacher.sock`,
    graceMs: reader.parsed('grace', parseSeconds, graceDefault),
    logLevel: readLogLevel(reader),
    passedOn: Object.fromEntries(
      Object.entries(raw).filter((entry): entry is [string, string] => {
        return passedOnOptions.includes(entry[0]) && entry[1] !== undefined;
      }),
    ),
  };
  if (config.backend !== '') reader.parsed('backend', parseBackend);
  for (const option of ['csi', 'api', 'attacher'] as const) {
    if (config[option] !== '') reader.parsed(option, parseEndpoint, config[option]);
  }
  reader.parsed('nbd', parseNbdAddress, config.nbd);
  // What a role would refuse is refused here: started again and again, it would refuse it each time.
  for (const option of ['mapMemory', 'readCache', 'reserve']) {
    if (raw[option] !== undefined) reader.parsed(option, parseSize);
  }
  if (raw['reconnectDelay'] !== undefined) reader.parsed('reconnectDelay', parseSeconds);
  if (raw['strategy'] !== undefined) reader.parsed('strategy', parseStrategy);
  if (raw['connections'] !== undefined) reader.parsed('connections', parseConnections);
  if (raw['metrics'] !== undefined) reader.parsed('metrics', parseMetrics);
  readAttachLimit(reader);
  readOvercommit(reader);
  return reader.finish(complete(config));
}

/** Options of `all` that the roles below it take, by role. */
const passedOnOptions = [
  'driverName',
  'mapMemory',
  'readCache',
  'reserve',
  'grace',
  'reconnectDelay',
  'strategy',
  'connections',
  'metrics',
  'overcommit',
  'attachLimit',
];

function readPlugin(reader: Reader): Pick<PluginConfig, 'driverName' | 'logLevel'> & {
  csi: Endpoint | undefined;
} {
  return {
    csi: reader.parsed('csi', parseEndpoint),
    driverName: reader.text('driverName', defaultDriverName),
    logLevel: readLogLevel(reader),
  };
}

function readNode(reader: Reader): NodeConfig | undefined {
  return complete({
    volumedriver: reader.parsed('volumedriver', parseEndpoint),
    attacher: reader.parsed('attacher', parseEndpoint),
    nodeId: reader.matching('nodeId', nodeIdPattern, nodeIdRule),
    stateDirectory: reader.matching('stateDir', absolutePath, absolutePathRule),
    attachLimit: readAttachLimit(reader),
  });
}

function readAttachLimit(reader: Reader): number | undefined {
  return reader.parsed('attachLimit', (text) => parseCount(text, 4096), '128');
}

function readOvercommit(reader: Reader): number | undefined {
  return reader.parsed('overcommit', (text) => parseCount(text, 1000), '10');
}

function readController(reader: Reader, cluster: OneMachine | KubernetesCluster | undefined) {
  return complete({
    overcommit: readOvercommit(reader),
    attachLimit: readAttachLimit(reader),
    metrics: readMetrics(reader),
    cluster,
  });
}

function readMachine(reader: Reader): OneMachine | undefined {
  const text = reader.text('knownNodes');
  return complete({
    kind: 'machine' as const,
    volumedriver: reader.parsed('volumedriver', parseEndpoint),
    knownNodes: text.split(',').filter((node) => node !== ''),
  });
}

function readKubernetes(reader: Reader): KubernetesCluster | undefined {
  for (const option of ['volumedriver', 'knownNodes']) {
    if (reader.has(option)) reader.refuse(option, 'with --namespace, Kubernetes tells it');
  }
  return complete({
    kind: 'kubernetes' as const,
    namespace: reader.text('namespace'),
    volumedriverSelector: reader.text('volumedriverSelector'),
    volumedriverPort: reader.parsed('volumedriverPort', (text) => parseCount(text, 65_535)),
    caDirectory: reader.matching('tlsCaDir', absolutePath, absolutePathRule),
    issuer: reader.has('issuer') ? readIssuer(reader) : null,
  });
}

function readIssuer(reader: Reader): KubernetesCluster['issuer'] | undefined {
  return complete({
    address: reader.parsed('issuer', parseMetrics),
    serviceAccount: reader.text('issuerServiceAccount'),
  });
}

function readLogLevel(reader: Reader): LogLevel {
  const text = reader.text('logLevel', 'info');
  const level = logLevels.find((known) => known === text);
  if (level !== undefined) return level;
  reader.refuse('logLevel', `it must be one of ${logLevels.join(', ')}`);
  return 'info';
}

/** file:DIR. An S3 backend comes later: it is refused by name rather than misread. */
function parseBackend(text: string): string {
  if (text.startsWith('s3://')) {
    throw new VolumeError(
      'NOT_IMPLEMENTED',
      'an S3 backend is not part of this version: use file:DIR',
    );
  }
  const directory = /^file:(\/.*)$/.exec(text)?.[1];
  if (directory !== undefined) return directory;
  throw new VolumeError(
    'INVALID_ARGUMENT',
    'it must be file: and an absolute path, such as file:/srv/volumes',
  );
}

function parseStrategy(text: string): StrategyWish {
  const wish = strategyWishes.find((known) => known === text);
  if (wish !== undefined) return wish;
  throw new VolumeError('INVALID_ARGUMENT', `it must be one of ${strategyWishes.join(', ')}`);
}

function parseConnections(text: string): number {
  const count = Number(text);
  if (/^\d{1,2}$/.test(text) && count >= 1 && count <= connectionsMax) return count;
  throw new VolumeError('INVALID_ARGUMENT', `it must be a number from 1 to ${connectionsMax}`);
}

/** A whole number from 1 to `max`. */
function parseCount(text: string, max: number): number {
  const count = Number(text);
  if (/^\d{1,5}$/.test(text) && count >= 1 && count <= max) return count;
  throw new VolumeError('INVALID_ARGUMENT', `it must be a number from 1 to ${max}`);
}

function parseMetrics(text: string): MetricsAddress {
  const { host, port } = parseTcpEndpoint(text);
  return { host, port };
}

/** Milliseconds of a number of seconds. */
function parseSeconds(text: string): number {
  if (/^\d{1,7}$/.test(text)) return Number(text) * 1000;
  throw new VolumeError('INVALID_ARGUMENT', 'it must be a number of seconds, such as 30');
}

type Complete<Config> = { [Key in keyof Config]: Exclude<Config[Key], undefined> };

/** The object when none of its values is undefined. */
function complete<Config extends object>(config: Config): Complete<Config> | undefined {
  return Object.values(config).includes(undefined) ? undefined : (config as Complete<Config>);
}
