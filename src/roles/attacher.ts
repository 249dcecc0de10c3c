/** The attacher role: owns the node's block devices. It leaves them working when it ends. */
import { startAttacherServer } from '../api/attacher-server.ts';
import { AttacherService } from '../attacher/attacher-service.ts';
import { FuseStrategy } from '../attacher/fuse/fuse-strategy.ts';
import { PrometheusMetrics, serveMetrics } from '../attacher/metrics.ts';
import { systemClock } from '../base/clock.ts';
import { createLogger } from '../base/logger.ts';
import type { AttacherConfig } from '../config.ts';
import { runCommand } from '../volumes/command.ts';
import { aborted } from './stopping.ts';

export async function runAttacher(
  config: AttacherConfig,
  version: string,
  stop: AbortSignal,
): Promise<void> {
  const logger = createLogger(config.logLevel, { role: 'attacher', version });
  const { stateDirectory, driverName, reconnectDelaySeconds } = config;
  const common = { runCommand, clock: systemClock, logger, reconnectDelaySeconds };
  const fuse = new FuseStrategy({ ...common, stateDirectory });
  const strategy = fuse.name;
  const metrics = new PrometheusMetrics({ strategy, driver: driverName });
  const page =
    config.metrics === null
      ? null
      : await serveMetrics(metrics.registry, { ...config.metrics, logger });
  const service = new AttacherService({
    stateDirectory,
    driverName,
    strategies: [fuse],
    clock: systemClock,
    logger,
    metrics,
    reconnectDelaySeconds,
  });
  await service.start();
  const server = await startAttacherServer({ endpoint: config.listen, service, logger });
  logger.info('attacher ready', { stateDirectory, strategy });
  await aborted(stop);
  await server.close();
  await service.close();
  await page?.close();
}
