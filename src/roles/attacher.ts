/** The attacher role: owns the node's block devices. It leaves them working when it ends. */
import { mkdir } from 'node:fs/promises';
import { release } from 'node:os';
import { startAttacherServer } from '../api/attacher-server.ts';
import { AttacherService } from '../attacher/attacher-service.ts';
import { chooseStrategy } from '../attacher/choose-strategy.ts';
import { FuseStrategy } from '../attacher/fuse/fuse-strategy.ts';
import { KernelStrategy } from '../attacher/kernel/kernel-strategy.ts';
import { openNbdNetlink } from '../attacher/kernel/netlink/nbd-netlink.ts';
import { PrometheusMetrics } from '../attacher/metrics.ts';
import type { DeviceStrategy } from '../attacher/strategy.ts';
import { systemClock } from '../base/clock.ts';
import { createLogger, type Logger } from '../base/logger.ts';
import type { AttacherConfig } from '../config.ts';
import { startMonitoringIfWanted } from '../monitoring/http-server.ts';
import { lockDirectory } from '../volumedriver/disk/directory-lock.ts';
import { runCommand } from '../volumes/command.ts';
import { aborted } from './stopping.ts';

/** How long the kernel may take to say whether it has an NBD client. */
const findNbdMs = 5_000;

export async function runAttacher(
  config: AttacherConfig,
  version: string,
  stop: AbortSignal,
): Promise<void> {
  const logger = createLogger(config.logLevel, { role: 'attacher', version });
  const { stateDirectory, driverName, reconnectDelaySeconds } = config;
  // Before anything is looked at: what another attacher has begun would be undone.
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  const lock = lockDirectory(stateDirectory, `process ${process.pid}`);
  const strategies = await strategiesFor(config, logger);
  const [{ name: strategy }] = strategies;
  const metrics = new PrometheusMetrics({ strategy, driver: driverName });
  let starting: string | null = 'the attacher looks after the devices that it finds';
  const monitoring = await startMonitoringIfWanted(config.metrics, {
    page: metrics.registry,
    ready: () => Promise.resolve(starting),
    logger,
  });
  const service = new AttacherService({
    stateDirectory,
    driverName,
    strategies,
    clock: systemClock,
    logger,
    metrics,
    reconnectDelaySeconds,
  });
  await service.start();
  const server = await startAttacherServer({ endpoint: config.listen, service, logger });
  starting = null;
  logger.info('attacher ready', { stateDirectory, strategy });
  await aborted(stop);
  await server.close();
  await service.close();
  await monitoring?.close();
  lock.release();
}

/** The one that makes new devices first, and the other one for devices that it made before. */
async function strategiesFor(
  config: AttacherConfig,
  logger: Logger,
): Promise<[DeviceStrategy, DeviceStrategy]> {
  const { stateDirectory, reconnectDelaySeconds, connections } = config;
  const common = { runCommand, clock: systemClock, logger, reconnectDelaySeconds };
  const fuse = new FuseStrategy({ ...common, stateDirectory });
  const kernel = new KernelStrategy({ ...common, connections });
  const { name, reason } = await chooseStrategy(config.strategy, {
    release: release(),
    findNbd,
    runCommand,
  });
  logger.info('strategy chosen for new devices', { strategy: name, reason });
  return name === 'kernel' ? [kernel, fuse] : [fuse, kernel];

  async function findNbd(): Promise<{ hasIdentifiers: boolean }> {
    const netlink = await openNbdNetlink({ clock: systemClock, logger, timeoutMs: findNbdMs });
    netlink.close();
    return { hasIdentifiers: netlink.hasIdentifiers };
  }
}
