/**
 * Everything on one machine: a supervisor with each role as a process of its own, started again when it dies. The data
 * plane comes first and goes last. Roles end, as after SIGTERM, when their supervisor is gone: the next one could not
 * start its own beside them.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { AttacherClient } from '../api/attacher-client.ts';
import { parseEndpoint } from '../api/endpoint.ts';
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import { systemClock } from '../base/clock.ts';
import { createLogger, type Logger } from '../base/logger.ts';
import type { AllConfig } from '../config.ts';
import { aborted, supervisedMark } from './stopping.ts';

const restartMsFirst = 200;
const restartMsMax = 10_000;
/** A role that ran so long starts with a short pause again when it dies. */
const stableMs = 30_000;
/** After SIGTERM, beyond the volumedriver's own grace period; longer than it needs to cut clients and to close. */
const stopMs = 60_000;
/** How long the CSI socket waits for the data plane at the start. */
const readyMs = 60_000;
const readyPollMs = 100;

export async function runAll(config: AllConfig, version: string, stop: AbortSignal): Promise<void> {
  const logger = createLogger(config.logLevel, { role: 'all', version });
  const roles = rolesOf(config).map((args) => new SupervisedRole(args, logger));
  const [volumedriver, attacher, plugin] = roles;
  volumedriver?.start();
  attacher?.start();
  // A CSI socket that is there answers: nothing on one machine waits for Probe first.
  await dataPlaneReady(config, logger, stop);
  if (!stop.aborted) plugin?.start();
  await aborted(stop);
  for (const role of roles.reverse()) await role.stop(config.graceMs + stopMs);
}

async function dataPlaneReady(config: AllConfig, logger: Logger, stop: AbortSignal): Promise<void> {
  const volumes = new VolumedriverClient(parseEndpoint(config.api), { timeoutMs: readyPollMs });
  const devices = new AttacherClient(parseEndpoint(config.attacher), { timeoutMs: readyPollMs });
  const giveUpMs = systemClock.monotonicMs() + readyMs;
  try {
    while (!stop.aborted && systemClock.monotonicMs() < giveUpMs) {
      try {
        await devices.listDevices();
        if ((await volumes.info()).ready) return;
      } catch (error) {
        logger.debug('waiting for the data plane', { error });
      }
      await systemClock.sleep(readyPollMs, stop).catch(() => undefined); // stopped: the loop ends
    }
  } finally {
    volumes.close();
    devices.close();
  }
  if (!stop.aborted) logger.warn('the data plane is not ready yet', { afterMs: readyMs });
}

/** The arguments of each role, data plane first. */
function rolesOf(config: AllConfig): string[][] {
  const { dataDirectory, nodeId, passedOn } = config;
  const level = ['--log-level', config.logLevel];
  const name = flags(passedOn, ['driverName']);
  return [
    [
      'volumedriver',
      ...['--data-dir', `${dataDirectory}/volumedriver`, '--backend', config.backend],
      ...['--nbd', config.nbd, '--api', config.api, '--node-id', nodeId],
      ...flags(passedOn, ['mapMemory', 'readCache', 'reserve', 'grace']),
      ...[...name, ...level],
    ],
    [
      'attacher',
      ...['--listen', config.attacher, '--state-dir', `${dataDirectory}/attacher`],
      ...['--volumedriver', config.api],
      ...flags(passedOn, ['reconnectDelay', 'strategy', 'connections', 'metrics']),
      ...[...name, ...level],
    ],
    [
      'plugin',
      ...['--csi', config.csi, '--attacher', config.attacher, '--volumedriver', config.api],
      ...['--node-id', nodeId, '--known-nodes', nodeId, '--state-dir', `${dataDirectory}/node`],
      ...flags(passedOn, ['overcommit', 'attachLimit']),
      ...[...name, ...level],
    ],
  ];
}

function flags(values: Readonly<Record<string, string>>, options: readonly string[]): string[] {
  return options.flatMap((option) => {
    const value = values[option];
    const flag = `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    return value === undefined ? [] : [flag, value];
  });
}

class SupervisedRole {
  readonly #args: readonly string[];
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #child: ChildProcess | null = null;
  #running: Promise<void> = Promise.resolve();

  constructor(args: readonly string[], logger: Logger) {
    this.#args = args;
    this.#logger = logger.child({ supervised: args[0] });
  }

  start(): void {
    this.#running = this.#supervise();
  }

  /** SIGTERM, and SIGKILL after `limitMs`. */
  async stop(limitMs: number): Promise<void> {
    this.#stopping.abort();
    this.#child?.kill('SIGTERM');
    const late = new AbortController();
    const kill = systemClock.sleep(limitMs, late.signal).then(
      () => this.#child?.kill('SIGKILL'),
      () => undefined,
    );
    await this.#running;
    late.abort();
    await kill;
  }

  async #supervise(): Promise<void> {
    const { signal } = this.#stopping;
    let waitMs = restartMsFirst;
    while (!signal.aborted) {
      const startedMs = systemClock.monotonicMs();
      const how = await this.#runOnce();
      if (this.#stopping.signal.aborted) return;
      if (systemClock.monotonicMs() - startedMs > stableMs) waitMs = restartMsFirst;
      this.#logger.warn('a role ended, starting it again', { how, waitMs });
      await systemClock.sleep(waitMs, signal).catch(() => undefined); // stop() ends the wait
      waitMs = Math.min(2 * waitMs, restartMsMax);
    }
  }

  async #runOnce(): Promise<string> {
    const script = process.argv[1] ?? '';
    // The pipe carries nothing: its end tells a role that its supervisor is gone, however that died.
    const child = spawn(process.execPath, [script, ...this.#args], {
      stdio: ['pipe', 'inherit', 'inherit'],
      env: { ...process.env, [supervisedMark]: '1' },
    });
    this.#child = child;
    return await new Promise((resolve) => {
      child.once('error', (error) => {
        resolve(error.message);
      });
      child.once('exit', (code, signal) => {
        resolve(signal ?? `exit code ${String(code)}`);
      });
    });
  }
}
