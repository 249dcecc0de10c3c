/** The CSI roles: node, controller, or both on one socket. They keep nothing that a restart could lose. */
import { AttacherClient } from '../api/attacher-client.ts';
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import { createLogger, type Logger } from '../base/logger.ts';
import type { NodeConfig, PluginConfig } from '../config.ts';
import type { CsiServices } from '../csi/handlers.ts';
import { createIdentityService } from '../csi/identity-service.ts';
import { startCsiServer } from '../csi/server.ts';
import type { ObservedCall } from '../monitoring/call-metrics.ts';
import { createNodeService } from '../node/node-service.ts';
import { openController } from './controller.ts';
import { aborted } from './stopping.ts';

/** A CSI service as a role wires it up. */
export interface OpenedService<Name extends 'node' | 'controller'> {
  readonly handlers: NonNullable<CsiServices[Name]>;
  /** Told of every call that is done. */
  readonly observe?: (call: ObservedCall) => void;
  /** False while it still starts, which is not unhealthy. */
  readonly ready: () => Promise<boolean>;
  readonly close: () => Promise<void>;
}

export async function runPlugin(
  config: PluginConfig,
  version: string,
  stop: AbortSignal,
): Promise<void> {
  const { driverName } = config;
  const role =
    config.node === undefined ? 'controller' : config.controller === undefined ? 'node' : 'plugin';
  const nodeId = config.node?.nodeId;
  const logger = createLogger(config.logLevel, { role, version, nodeId });
  const node = config.node && openNode(config.node, driverName, logger);
  const { env } = process;
  const controller =
    config.controller &&
    (await openController(config.controller, { driverName, version, logger, env }));
  const parts = [node, controller].filter((part) => part !== undefined);
  const ready = async (): Promise<boolean> =>
    (await Promise.all(parts.map((part) => part.ready()))).every(Boolean);
  const server = await startCsiServer({
    endpoint: config.csi,
    logger,
    identity: createIdentityService({ driverName, version, ready }),
    ...(controller?.observe && { observe: controller.observe }),
    ...(node && { node: node.handlers }),
    ...(controller && { controller: controller.handlers }),
  });
  logger.info('csi ready', { driverName });
  await aborted(stop);
  await server.close();
  for (const part of parts) await part.close();
}

function openNode(config: NodeConfig, driverName: string, logger: Logger): OpenedService<'node'> {
  const volumes = new VolumedriverClient(config.volumedriver);
  const devices = new AttacherClient(config.attacher);
  const { nodeId, stateDirectory, attachLimit } = config;
  return {
    handlers: createNodeService({
      ...{ driverName, nodeId, stateDirectory, volumes, devices, logger },
      volumesMax: attachLimit,
    }),
    // A volumedriver that is away makes calls fail, which are repeated; a restart of this role would mend nothing.
    ready: () => Promise.resolve(true),
    close: () => {
      volumes.close();
      devices.close();
      return Promise.resolve();
    },
  };
}
