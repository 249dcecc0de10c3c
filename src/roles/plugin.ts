/** The CSI roles: node, controller, or both on one socket. They keep nothing that a restart could lose. */
import { AttacherClient } from '../api/attacher-client.ts';
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import { createLogger } from '../base/logger.ts';
import type { PluginConfig } from '../config.ts';
import { createControllerService } from '../controller/controller-service.ts';
import { staticNodes } from '../controller/node-registry.ts';
import type { CsiServices } from '../csi/handlers.ts';
import { createIdentityService } from '../csi/identity-service.ts';
import { startCsiServer } from '../csi/server.ts';
import { createNodeService } from '../node/node-service.ts';
import { hasCode } from '../volumes/errors.ts';
import { aborted } from './stopping.ts';

export async function runPlugin(
  config: PluginConfig,
  version: string,
  stop: AbortSignal,
): Promise<void> {
  const { driverName, node, controller } = config;
  const role = node === undefined ? 'controller' : controller === undefined ? 'node' : 'plugin';
  const logger = createLogger(config.logLevel, { role, version, nodeId: node?.nodeId });
  const volumes = new VolumedriverClient(config.volumedriver);
  const devices = node === undefined ? undefined : new AttacherClient(node.attacher);
  const services: CsiServices = {
    identity: createIdentityService({ driverName, version, ready: () => isReady(volumes) }),
    ...(node !== undefined &&
      devices !== undefined && {
        node: createNodeService({
          driverName,
          nodeId: node.nodeId,
          stateDirectory: node.stateDirectory,
          volumes,
          devices,
          logger,
        }),
      }),
    ...(controller !== undefined && {
      controller: createControllerService({
        driverName,
        volumes,
        nodes: staticNodes(controller.knownNodes),
      }),
    }),
  };
  const server = await startCsiServer({ endpoint: config.csi, logger, ...services });
  logger.info('csi ready', { driverName });
  await aborted(stop);
  await server.close();
  volumes.close();
  devices?.close();
}

/** A volumedriver that doesn't answer (yet) makes the plugin unready, not unhealthy. */
async function isReady(volumes: VolumedriverClient): Promise<boolean> {
  try {
    return (await volumes.info()).ready;
  } catch (error) {
    if (hasCode(error, 'UNAVAILABLE') || hasCode(error, 'SHUTTING_DOWN')) return false;
    throw error;
  }
}
